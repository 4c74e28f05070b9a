//! Extensions that come by name (ECDS), and the chains of filters that they are for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use weft_xds::pb::envoy::config::core::v3::TypedExtensionConfig;

use super::{
    servers::ServerSource,
    source::{FileSource, Source},
};
use crate::filter::LiveChain;

/// What is known of each, and who is to be told.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    /// What came, by key; `None` is known not to exist.
    pub(super) given: BTreeMap<String, Option<TypedExtensionConfig>>,
    /// Those that come from files, and the name there.
    pub(super) files: HashMap<String, (FileSource, String)>,
    /// Those that come from servers that are asked for nothing else, and the name there.
    pub(super) servers: HashMap<String, (ServerSource, String)>,
    chains: Vec<Weak<LiveChain>>,
    /// Those that were asked for since this was last emptied.
    pub(super) asked: Asked,
}

/// Keys of extensions that a listener asks for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) all: BTreeSet<String>,
    /// Those without which it does not start.
    pub(crate) awaited: BTreeSet<String>,
}

// === impl Extensions ===

impl Extensions {
    /// Takes note that an extension is asked for, and maybe waited for.
    pub(crate) fn ask(&mut self, source: &Source, name: &str, awaited: bool) {
        let key = source.key(name);
        match source {
            Source::Ads => {}
            Source::File(file) => {
                self.files.insert(key.clone(), (file.clone(), name.to_owned()));
            }
            Source::Server(server) => {
                self.servers.insert(key.clone(), (server.clone(), name.to_owned()));
            }
        }
        if awaited {
            self.asked.awaited.insert(key.clone());
        }
        self.asked.all.insert(key);
    }

    /// What is known of it.
    pub(crate) fn get(&self, key: &str) -> Option<&TypedExtensionConfig> {
        self.given.get(key)?.as_ref()
    }

    /// Has a chain told of what comes, as long as it lives.
    pub(crate) fn follow(&mut self, chain: &Arc<LiveChain>) {
        self.chains.push(Arc::downgrade(chain));
    }

    /// The chains that live.
    pub(super) fn chains(&mut self) -> Vec<Arc<LiveChain>> {
        self.chains.retain(|chain| chain.strong_count() > 0);
        self.chains.iter().filter_map(Weak::upgrade).collect()
    }

    /// Drops what is not among those asked for.
    pub(super) fn retain(&mut self, asked: &BTreeSet<String>) {
        self.given.retain(|key, _| asked.contains(key));
        self.files.retain(|key, _| asked.contains(key));
        self.servers.retain(|key, _| asked.contains(key));
    }
}
