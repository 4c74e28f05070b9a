//! Where resources come from: `ConfigSource`.

use std::{path::PathBuf, time::Duration};

use weft_xds::{
    ResourceType,
    name::ResourceName,
    pb::envoy::config::core::v3::{ConfigSource, PathConfigSource, config_source::ConfigSourceSpecifier},
};

use super::{
    ConfigError, Path,
    servers::{ServerSource, Servers},
    unsupported, value,
};

/// Where a resource comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Source {
    /// The one aggregated stream.
    #[default]
    Ads,
    /// A file that holds what a server would send.
    File(FileSource),
    /// A server that is asked for this type alone.
    Server(ServerSource),
}

/// A file that is read again when it, or what it stands in, is moved into place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileSource {
    pub(crate) path: PathBuf,
    /// Whatever is moved into this directory has the file read anew.
    pub(crate) watched_directory: Option<PathBuf>,
}

/// How long what is asked for is waited for: the longest of several times, which may be for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience(Option<Duration>);

/// Envoy's.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

// === impl Patience ===

impl Patience {
    /// `initial_fetch_timeout`: zero is for ever.
    pub(crate) fn read(path: &Path, message: Option<&ConfigSource>) -> Result<Self, ConfigError> {
        let timeout = message.and_then(|message| message.initial_fetch_timeout.as_ref());
        let path = path.field("initial_fetch_timeout");
        value::limit(&path, timeout, Some(INITIAL_FETCH_TIMEOUT)).map(Self)
    }

    /// Until the last of both is over.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0.zip(other.0).map(|(one, other)| one.max(other)))
    }

    /// The same, and the default where it would be for ever.
    pub(crate) fn bounded(self) -> Self {
        Self(self.0.or(Some(INITIAL_FETCH_TIMEOUT)))
    }

    /// Whether it is over after so long.
    pub(crate) fn is_over(self, waited: Duration) -> bool {
        self.0.is_some_and(|patience| waited >= patience)
    }
}

impl Default for Patience {
    /// None at all.
    fn default() -> Self {
        Self(Some(Duration::ZERO))
    }
}

// === impl Source ===

impl Source {
    /// Reads a source of this type that is there or, as far as we are asked, ADS.
    pub(crate) fn read(
        path: &Path,
        message: Option<&ConfigSource>,
        type_: ResourceType,
        servers: &Servers,
    ) -> Result<Self, ConfigError> {
        let Some(message) = message else { return Ok(Self::Ads) };
        unsupported!(path, message; authorities);
        match &message.config_source_specifier {
            // Itself is where what names it came from, and what comes from a server comes over ADS.
            None | Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(Self::Ads),
            Some(ConfigSourceSpecifier::PathConfigSource(file)) => {
                FileSource::read(&path.field("path_config_source"), file).map(Self::File)
            }
            #[expect(deprecated, reason = "still what many files have")]
            Some(ConfigSourceSpecifier::Path(file)) => {
                let file = PathConfigSource { path: file.clone(), ..PathConfigSource::default() };
                FileSource::read(path, &file).map(Self::File)
            }
            Some(ConfigSourceSpecifier::ApiConfigSource(server)) => {
                let source = ServerSource::read(&path.field("api_config_source"), server, servers)?;
                source.check(path, type_)?;
                Ok(Self::Server(source))
            }
        }
    }

    /// The same for the resource of this name, which may say itself who has it (`xdstp`).
    pub(crate) fn of(
        path: &Path,
        name: (&str, &str),
        source: (&str, Option<&ConfigSource>),
        type_: ResourceType,
        servers: &Servers,
    ) -> Result<Self, ConfigError> {
        if ResourceName::is_structured(name.1) {
            return servers.authority(&path.field(name.0), name.1, type_);
        }
        Self::read(&path.field(source.0), source.1, type_, servers)
    }

    /// Whether it is a server, on one stream or another.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Ads | Self::Server(_))
    }

    /// What a resource is known by here: two sources may have different ones of one name.
    pub(crate) fn key(&self, name: &str) -> String {
        match self {
            Self::Ads => name.to_owned(),
            Self::File(file) => format!("{name} in {}", file.path.display()),
            Self::Server(server) => format!("{name} from {}", server.label()),
        }
    }
}

// === impl FileSource ===

impl FileSource {
    fn read(path: &Path, message: &PathConfigSource) -> Result<Self, ConfigError> {
        let file = PathBuf::from(&message.path);
        // As in Envoy: a file that is not there yet would be waited for in vain by mistake more often than on purpose.
        if !file.exists() {
            return Err(path.field("path").error(format!("{:?} does not exist", message.path)));
        }
        let watched_directory = match &message.watched_directory {
            None => None,
            Some(directory) if directory.path.is_empty() => {
                return Err(path.field("watched_directory.path").missing());
            }
            Some(directory) => Some(PathBuf::from(&directory.path)),
        };
        Ok(Self { path: file, watched_directory })
    }
}
