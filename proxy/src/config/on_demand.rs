//! What a listener says about listeners on demand: an entry of its metadata, which Envoy reads over.
//!
//! ```yaml
//! metadata:
//!   filter_metadata:
//!     weft.dev:
//!       on_demand_listeners: { hold_seconds: 5, idle_seconds: 300 }
//! ```

use std::time::Duration;

use weft_xds::pb::{
    envoy::config::listener::v3::Listener,
    google::protobuf::{Struct, value::Kind},
};

use super::{ConfigError, Path};
use crate::listener::on_demand::OnDemandSettings;

const NAMESPACE: &str = "weft.dev";
const KEY: &str = "on_demand_listeners";
/// How long a connection is held, and how long an idle listener is kept, where that is not said.
const DEFAULT: OnDemandSettings =
    OnDemandSettings { hold: Duration::from_secs(5), idle: Duration::from_secs(300) };

/// `None` if all listeners are known beforehand.
pub(super) fn settings(path: &Path, message: &Listener) -> Result<Option<OnDemandSettings>, ConfigError> {
    let ours = message.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(NAMESPACE));
    let Some(value) = ours.and_then(|ours| ours.fields.get(KEY)) else { return Ok(None) };
    let path = path.field("metadata.filter_metadata").field(NAMESPACE).field(KEY);
    let Some(Kind::StructValue(fields)) = &value.kind else { return Err(path.error("is no object")) };
    Ok(Some(OnDemandSettings {
        hold: seconds(&path, fields, "hold_seconds")?.unwrap_or(DEFAULT.hold),
        idle: seconds(&path, fields, "idle_seconds")?.unwrap_or(DEFAULT.idle),
    }))
}

fn seconds(path: &Path, fields: &Struct, key: &str) -> Result<Option<Duration>, ConfigError> {
    let Some(value) = fields.fields.get(key) else { return Ok(None) };
    let read = match value.kind {
        Some(Kind::NumberValue(number)) => Duration::try_from_secs_f64(number).ok(),
        _ => None,
    };
    read.map(Some).ok_or_else(|| path.field(key).error("is no number of seconds"))
}
