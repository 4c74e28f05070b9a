//! Compiling `StatefulSession`.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::extensions::{
        filters::http::stateful_session::v3::{
            StatefulSession as Proto, StatefulSessionPerRoute, stateful_session_per_route::Override,
        },
        http::stateful_session::{cookie::v3::CookieBasedSessionState, header::v3::HeaderBasedSessionState},
    },
    pb::google::protobuf::Any,
};

use super::{COUNTERS, Settings, State, StatefulSession};
use crate::{
    config::{ConfigError, Path, value},
    filter::Kind,
    route::affinity::Cookie,
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        let prefix = ("envoy_stateful_session_prefix", message.stat_prefix.as_str());
        let manager = ("envoy_http_conn_manager_prefix", inputs.stat_prefix);
        let stats =
            (!message.stat_prefix.is_empty()).then(|| inputs.counters.get(&COUNTERS, &[manager, prefix]));
        Ok(Box::new(StatefulSession { base: Arc::new(settings(path, &message)?), stats }))
    },
    of_route: Some((
        "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
        |path, config, _| {
            let message = value::unpacked(path, any::unpack::<StatefulSessionPerRoute>(config))?;
            Ok(Arc::new(match &message.r#override {
                Some(Override::Disabled(true)) => Settings { state: None, strict: false, status: 503 },
                Some(Override::Disabled(false)) => {
                    return Err(path.field("disabled").error("must be true"));
                }
                Some(Override::StatefulSession(message)) => {
                    settings(&path.field("stateful_session"), message)?
                }
                None => return Err(path.field("stateful_session").missing()),
            }))
        },
    )),
};

const COOKIE: &str = "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState";
const HEADER: &str = "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState";

fn settings(path: &Path, message: &Proto) -> Result<Settings, ConfigError> {
    let status = match message.status_on_strict_destination_not_found {
        status if !message.strict || status == 0 => 503,
        status => value::status(&path.field("status_on_strict_destination_not_found"), status)?,
    };
    let state = match &message.session_state {
        None => None,
        Some(extension) => {
            Some(state(&path.field("session_state").field("typed_config"), extension.typed_config.as_ref())?)
        }
    };
    Ok(Settings { state, strict: message.strict, status })
}

fn state(path: &Path, config: Option<&Any>) -> Result<State, ConfigError> {
    let config = config.ok_or_else(|| path.missing())?;
    match any::type_name(&config.type_url) {
        COOKIE => {
            let message = value::unpacked(path, any::unpack::<CookieBasedSessionState>(config))?;
            let path = path.field("cookie");
            let cookie = message.cookie.as_ref().ok_or_else(|| path.missing())?;
            // What would end the attribute or the field.
            let text = |name: &str, text: &str| {
                if text.bytes().any(|byte| byte < b' ' || byte == b';' || byte == 0x7f) {
                    return Err(path.field(name).error("contains a character that no cookie may have"));
                }
                Ok(text.to_owned())
            };
            if cookie.name.is_empty() {
                return Err(path.field("name").missing());
            }
            Ok(State::Cookie(Cookie {
                name: text("name", &cookie.name)?.into_bytes(),
                ttl: value::maybe_duration(&path.field("ttl"), cookie.ttl.as_ref())?,
                path: text("path", &cookie.path)?,
                attributes: Vec::new(),
            }))
        }
        HEADER => {
            let message = value::unpacked(path, any::unpack::<HeaderBasedSessionState>(config))?;
            if message.name.is_empty() {
                return Err(path.field("name").missing());
            }
            Ok(State::Header(value::removable(&path.field("name"), &message.name)?))
        }
        other => Err(path.field("@type").error(format!("{other} is not supported"))),
    }
}
