//! Where requests go as well.

use weft_xds::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;

use super::target;
use crate::config::{ConfigError, Path, names::Names, unsupported, value};
use crate::http::h1::parse::is_authority;
use crate::route::mirror::{Mirror, MirrorHost};

/// Compiles the field `request_mirror_policies` of the message at `path`.
pub(super) fn compile(
    path: &Path,
    policies: &[RequestMirrorPolicy],
    names: &mut Names,
) -> Result<Vec<Mirror>, ConfigError> {
    let policies = policies.iter().enumerate();
    policies
        .map(|(index, policy)| mirror(&path.item("request_mirror_policies", index), policy, names))
        .collect()
}

/// `trace_sampled` is about spans, of which there are none.
fn mirror(path: &Path, message: &RequestMirrorPolicy, names: &mut Names) -> Result<Mirror, ConfigError> {
    unsupported!(path, message; request_headers_mutations);
    let host = match message.host_rewrite_literal.as_str() {
        "" if message.disable_shadow_host_suffix_append => MirrorHost::Same,
        "" => MirrorHost::Shadow,
        host if is_authority(host.as_bytes()) => MirrorHost::Literal(host.as_bytes().to_vec()),
        host => return Err(path.field("host_rewrite_literal").error(format!("{host:?} is not a host"))),
    };
    let fraction = message.runtime_fraction.as_ref();
    Ok(Mirror {
        cluster: target::by_name_or_header(path, &message.cluster, &message.cluster_header, names)?,
        share: value::runtime_share(&path.field("runtime_fraction"), fraction, value::ALL)?,
        host,
    })
}
