//! Secrets and files that TLS contexts are made from, and the contexts that must be made again when one changes.
//!
//! # Guarantees
//! * A secret that any context cannot be made with is refused, and all of them stay as they are.
//! * A context changes in one step, and connections keep what they began with.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use weft_xds::{
    ResourceType, any,
    json::{self, Format},
    pb::envoy::{
        config::core::v3::{DataSource, config_source::ConfigSourceSpecifier, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            DownstreamTlsContext, SdsSecretConfig, Secret, UpstreamTlsContext, secret::Type,
        },
    },
};

use super::{
    ConfigError, Path,
    servers::{ServerSource, Servers},
    source::{Patience, Source},
    tls, unsupported, value,
};
use crate::tls::{ClientTls, ServerTls, client::ClientSettings, material::Material, server::ServerSettings};

/// All secrets that are known, and who uses them.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// From the bootstrap and from servers, by what each is known by: its name, and its source if that is not ADS.
    known: HashMap<String, Secret>,
    fixed: HashSet<String>,
    /// Where those come from that come from servers that are asked for nothing else, and the name there.
    from_servers: HashMap<String, (ServerSource, String)>,
    servers: Arc<Servers>,
    users: Vec<User>,
    /// How long the secrets of the contexts that were added since this was last taken are waited for.
    patience: Patience,
    /// Files that are looked at again, as they were last seen.
    watched: HashMap<PathBuf, Option<Stamp>>,
}

/// A context in force.
#[derive(Debug)]
struct User {
    path: Path,
    context: Context,
    /// Keys of what servers are to give.
    wanted: BTreeSet<String>,
}

#[derive(Debug)]
enum Context {
    Server(Weak<ServerTls>, Box<DownstreamTlsContext>),
    Client(Weak<ClientTls>, Box<UpstreamTlsContext>),
}

/// A context that was compiled and is to be put in place.
enum Compiled {
    Server(Arc<ServerTls>, Option<ServerSettings>),
    Client(Arc<ClientTls>, Option<ClientSettings>),
}

/// What tells one state of a file from another. Kubernetes swaps a link, so the file behind it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Finds what a context refers to, and notes it.
pub(super) struct Lookup<'s> {
    known: &'s HashMap<String, Secret>,
    fixed: &'s HashSet<String>,
    servers: &'s Servers,
    wanted: BTreeSet<String>,
    from_servers: HashMap<String, (ServerSource, String)>,
    watched: BTreeSet<PathBuf>,
    patience: Patience,
    /// Whether we are inside of a secret that was delivered: its files are watched without being asked.
    delivered: bool,
}

// === impl Secrets ===

impl Secrets {
    /// Takes over a secret of the bootstrap.
    pub(crate) fn set_static(&mut self, path: &Path, secret: Secret) -> Result<(), ConfigError> {
        if secret.name.is_empty() {
            return Err(path.field("name").missing());
        }
        self.fixed.insert(secret.name.clone());
        self.known.insert(secret.name.clone(), secret);
        Ok(())
    }

    /// Makes known where secrets may come from.
    pub(super) fn set_servers(&mut self, servers: &Arc<Servers>) {
        self.servers = Arc::clone(servers);
    }

    /// Takes over a secret from a server: all contexts that use it change, or none.
    pub(crate) fn set(&mut self, path: &Path, key: &str, secret: Secret) -> Result<(), ConfigError> {
        let name = key.to_owned();
        if self.fixed.contains(&name) {
            return Err(path.field("name").error(format!("{name:?} is a static secret")));
        }
        let before = self.known.insert(name.clone(), secret);
        let result = self.compile(|user| user.wanted.contains(&name));
        if result.is_err() {
            match before {
                Some(before) => self.known.insert(name, before),
                None => self.known.remove(&name),
            };
        }
        put_in_place(result?);
        Ok(())
    }

    /// Makes the TLS of a filter chain.
    pub(crate) fn server(
        &mut self,
        path: &Path,
        message: &DownstreamTlsContext,
        timeout: Option<Duration>,
    ) -> Result<Arc<ServerTls>, ConfigError> {
        let server = Arc::new(ServerTls::new(timeout));
        let context = Context::Server(Arc::downgrade(&server), Box::new(message.clone()));
        self.add(path, context)?;
        Ok(server)
    }

    /// Makes the TLS of a cluster.
    pub(crate) fn client(
        &mut self,
        path: &Path,
        message: &UpstreamTlsContext,
    ) -> Result<Arc<ClientTls>, ConfigError> {
        let client = Arc::new(ClientTls::default());
        let context = Context::Client(Arc::downgrade(&client), Box::new(message.clone()));
        self.add(path, context)?;
        Ok(client)
    }

    /// A secret that came from a server.
    pub(crate) fn given(&self, key: &str) -> Option<&Secret> {
        self.known.get(key).filter(|_| !self.fixed.contains(key))
    }

    /// Names that are to come over ADS.
    pub(crate) fn wanted(&self) -> BTreeSet<String> {
        let mut keys = self.wanted_keys();
        keys.retain(|key| !self.from_servers.contains_key(key));
        keys
    }

    /// Names that come from servers that are asked for nothing else.
    pub(crate) fn wanted_from_servers(&self) -> BTreeSet<(ServerSource, String)> {
        self.wanted_keys().iter().filter_map(|key| self.from_servers.get(key).cloned()).collect()
    }

    fn wanted_keys(&self) -> BTreeSet<String> {
        self.users.iter().filter(|user| user.context.is_used()).flat_map(|user| user.wanted.clone()).collect()
    }

    /// How long the secrets that were asked for since the last call are waited for.
    pub(super) fn take_patience(&mut self) -> Patience {
        std::mem::take(&mut self.patience)
    }

    /// The certificates of each context that is in use.
    pub(crate) fn material(&self) -> Vec<Material> {
        self.users.iter().filter_map(|user| user.context.material()).collect()
    }

    /// Drops what nothing uses any more.
    pub(crate) fn forget_unused(&mut self) {
        self.users.retain(|user| user.context.is_used());
        let wanted = self.wanted_keys();
        self.from_servers.retain(|key, _| wanted.contains(key));
        let fixed = &self.fixed;
        self.known.retain(|name, _| fixed.contains(name) || wanted.contains(name));
        if self.users.is_empty() {
            self.watched.clear();
        }
    }

    /// Looks whether files changed, and takes over what is in them now. What cannot be used changes nothing: a
    /// certificate and its key are seldom replaced in the same moment, so the next look may find them fit.
    pub(crate) fn refresh(&mut self) {
        let mut changed = false;
        for (file, seen) in &mut self.watched {
            let now = Stamp::of(file);
            if now != *seen {
                *seen = now;
                changed = true;
            }
        }
        if changed {
            match self.compile(|_| true) {
                Ok(compiled) => {
                    tracing::info!(contexts = compiled.len(), "tls files changed");
                    put_in_place(compiled);
                }
                Err(error) => tracing::warn!(%error, "tls files changed and cannot be used"),
            }
        }
    }

    fn add(&mut self, path: &Path, context: Context) -> Result<(), ConfigError> {
        let mut user = User { path: path.clone(), context, wanted: BTreeSet::new() };
        let mut lookup = Lookup::new(&self.known, &self.fixed, &self.servers);
        let compiled = user.compile(&mut lookup)?;
        user.wanted = lookup.wanted;
        self.from_servers.extend(lookup.from_servers);
        self.patience = self.patience.and(lookup.patience);
        for file in lookup.watched {
            let stamp = Stamp::of(&file);
            self.watched.entry(file).or_insert(stamp);
        }
        self.users.push(user);
        put_in_place(compiled.into_iter().collect());
        Ok(())
    }

    fn compile(&mut self, affected: impl Fn(&User) -> bool) -> Result<Vec<Compiled>, ConfigError> {
        let mut all = Vec::new();
        for user in self.users.iter_mut().filter(|user| affected(user)) {
            let mut lookup = Lookup::new(&self.known, &self.fixed, &self.servers);
            all.extend(user.compile(&mut lookup)?);
            user.wanted.append(&mut lookup.wanted);
            self.from_servers.extend(lookup.from_servers);
            for file in lookup.watched {
                let stamp = Stamp::of(&file);
                self.watched.entry(file).or_insert(stamp);
            }
        }
        Ok(all)
    }
}

fn put_in_place(compiled: Vec<Compiled>) {
    for compiled in compiled {
        match compiled {
            Compiled::Server(server, Some(settings)) => server.set(settings),
            Compiled::Client(client, Some(settings)) => client.set(settings),
            Compiled::Server(_, None) | Compiled::Client(_, None) => {}
        }
    }
}

// === impl User ===

impl User {
    /// Compiles the context, unless nothing uses it any more.
    fn compile(&self, lookup: &mut Lookup<'_>) -> Result<Option<Compiled>, ConfigError> {
        Ok(match &self.context {
            Context::Server(server, message) => match server.upgrade() {
                None => None,
                Some(server) => Some(Compiled::Server(server, tls::server(&self.path, message, lookup)?)),
            },
            Context::Client(client, message) => match client.upgrade() {
                None => None,
                Some(client) => Some(Compiled::Client(client, tls::client(&self.path, message, lookup)?)),
            },
        })
    }
}

impl Context {
    fn material(&self) -> Option<Material> {
        match self {
            Self::Server(server, _) => server.upgrade()?.material(),
            Self::Client(client, _) => client.upgrade()?.material(),
        }
    }

    fn is_used(&self) -> bool {
        match self {
            Self::Server(server, _) => server.strong_count() > 0,
            Self::Client(client, _) => client.strong_count() > 0,
        }
    }
}

// === impl Lookup ===

impl<'s> Lookup<'s> {
    fn new(known: &'s HashMap<String, Secret>, fixed: &'s HashSet<String>, servers: &'s Servers) -> Self {
        Self {
            known,
            fixed,
            servers,
            wanted: BTreeSet::new(),
            from_servers: HashMap::new(),
            watched: BTreeSet::new(),
            patience: Patience::default(),
            delivered: false,
        }
    }

    /// The secret that is meant, with the path that errors in it have; `None` while it is not there.
    pub(super) fn secret(
        &mut self,
        path: &Path,
        config: &SdsSecretConfig,
    ) -> Result<Option<(Path, Type)>, ConfigError> {
        let name = &config.name;
        let named = Path::root("secret").field(name);
        let source = config.sds_config.as_ref();
        let secret = match source.map(|source| source.config_source_specifier.as_ref()) {
            None if self.fixed.contains(name) => self.known.get(name).cloned(),
            None => return Err(path.field("name").error(format!("there is no static secret {name:?}"))),
            Some(Some(ConfigSourceSpecifier::Ads(_))) => {
                self.wanted.insert(name.clone());
                self.patience = self.patience.and(Patience::read(&path.field("sds_config"), source)?);
                self.known.get(name).cloned()
            }
            Some(Some(ConfigSourceSpecifier::PathConfigSource(source))) => {
                Some(self.in_file(&path.field("sds_config.path_config_source"), &source.path, name)?)
            }
            Some(Some(ConfigSourceSpecifier::ApiConfigSource(server))) => {
                let path = path.field("sds_config");
                let server = ServerSource::read(&path.field("api_config_source"), server, self.servers)?;
                server.check(&path, ResourceType::Secret)?;
                self.patience = self.patience.and(Patience::read(&path, source)?);
                let key = Source::Server(server.clone()).key(name);
                self.wanted.insert(key.clone());
                let found = self.known.get(&key).cloned();
                self.from_servers.insert(key, (server, name.clone()));
                found
            }
            Some(_) => {
                return Err(path
                    .field("sds_config")
                    .error("only ads, api_config_source and path_config_source are supported"));
            }
        };
        self.delivered = source.is_some();
        match secret.map(|secret| secret.r#type) {
            None => Ok(None),
            Some(None) => Err(named.error("holds nothing")),
            Some(Some(secret)) => Ok(Some((named, secret))),
        }
    }

    /// The secret of this name in a file that holds what a server would send.
    fn in_file(&mut self, path: &Path, file: &str, name: &str) -> Result<Secret, ConfigError> {
        self.watched.insert(file.into());
        let text = fs::read_to_string(file)
            .map_err(|error| path.field("path").error(format!("cannot read {file:?}: {error}")))?;
        let format = if file.ends_with(".json") { Format::Json } else { Format::Yaml };
        let bad = |reason: String| path.field("path").error(format!("{file:?}: {reason}"));
        let content =
            json::parse_value(&text, format).map_err(|error| bad(weft_kit::error::chain(&error)))?;
        let resources = content.get("resources").and_then(|resources| resources.as_array());
        for resource in resources.into_iter().flatten() {
            let resource =
                json::any_from_json(resource).map_err(|error| bad(weft_kit::error::chain(&error)))?;
            let secret: Secret =
                any::unpack(&resource).map_err(|error| bad(weft_kit::error::chain(&error)))?;
            if secret.name == name {
                return Ok(secret);
            }
        }
        Err(path.field("path").error(format!("{file:?} holds no secret {name:?}")))
    }

    /// What a source holds; nothing if there is none.
    pub(super) fn data(
        &mut self,
        path: &Path,
        source: Option<&DataSource>,
        watched: bool,
    ) -> Result<Vec<u8>, ConfigError> {
        let Some(source) = source else { return Ok(Vec::new()) };
        unsupported!(path, source; watched_directory);
        if let Some(Specifier::Filename(name)) = &source.specifier
            && (watched || self.delivered)
        {
            self.watched.insert(name.into());
        }
        value::inline_data(path, Some(source))
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(file: &std::path::Path) -> Option<Self> {
        let data = fs::metadata(file).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}
