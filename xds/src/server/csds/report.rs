//! The books in the words of CSDS.

use std::sync::Arc;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    pb::{
        envoy::{
            admin::v3::{ClientResourceStatus, UpdateFailureState},
            service::status::v3::{ClientConfig, ConfigStatus, client_config::GenericXdsConfig},
        },
        google::protobuf::Timestamp,
    },
    resource::ResourceType,
    server::{ProxyBooks, ResourceState, ResourceStatus, TypeStatus},
    session::VersionedResource,
};

pub(super) fn client(books: ProxyBooks, with_contents: bool) -> ClientConfig {
    let ProxyBooks { node, types, resources, .. } = books;
    let config = |resource: ResourceStatus| {
        let type_ = types.get(&resource.type_);
        generic(resource, type_, with_contents)
    };
    ClientConfig {
        node: Some(Arc::unwrap_or_clone(node)),
        generic_xds_configs: resources.into_iter().map(config).collect(),
        ..ClientConfig::default()
    }
}

fn generic(resource: ResourceStatus, type_: Option<&TypeStatus>, with_contents: bool) -> GenericXdsConfig {
    let ResourceStatus { type_: of, name, wanted, acked, state, refusal } = resource;
    let (config_status, client_status) = match state {
        ResourceState::Synced => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        ResourceState::Absent => (ConfigStatus::Synced, ClientResourceStatus::DoesNotExist),
        ResourceState::NotSent => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
        ResourceState::Refused => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        // It is known to have one version, if not the last.
        ResourceState::Stale if acked.is_some() => (ConfigStatus::Stale, ClientResourceStatus::Acked),
        ResourceState::Stale => (ConfigStatus::Stale, ClientResourceStatus::Requested),
    };
    let shown =
        |resource: &VersionedResource| (with_contents && of != ResourceType::Secret).then(|| resource.body());
    let refused_at = type_.and_then(|type_| type_.refused_at).map(timestamp);
    let answered_at = type_.and_then(|type_| type_.acked_at.max(type_.refused_at)).map(timestamp);
    let error_state = refusal.map(|refusal| UpdateFailureState {
        failed_configuration: wanted
            .as_ref()
            .filter(|wanted| wanted.version == refusal.version)
            .and_then(|wanted| shown(wanted)),
        last_update_attempt: refused_at,
        details: refusal.reason.to_string(),
        version_info: refusal.version.to_string(),
    });
    GenericXdsConfig {
        type_url: of.type_url().to_owned(),
        name,
        version_info: wanted.as_ref().map(|wanted| wanted.version.to_string()).unwrap_or_default(),
        xds_config: wanted.as_ref().and_then(|wanted| shown(wanted)),
        last_updated: answered_at,
        config_status: config_status.into(),
        client_status: client_status.into(),
        error_state,
        is_static_resource: false,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    // A clock before 1970 is not worth more than a wrong time.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
