//! Reading the layers of runtime values, those of the bootstrap and those that come later.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_xds::{
    ResourceType, json,
    pb::{
        envoy::config::bootstrap::v3::{LayeredRuntime, runtime_layer::LayerSpecifier},
        google::protobuf::Struct,
    },
};

use super::{
    ConfigError, Path,
    servers::Servers,
    source::{Patience, Source},
};
use crate::runtime::{Entry, GLOBAL_CONNECTIONS, LISTENER_CONNECTIONS, Layer};

/// What a bootstrap says of runtime values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runtime {
    pub(crate) layers: Vec<Layer>,
    /// Names of the resources that fill some of the layers, and where those come from.
    pub(crate) resources: Vec<(String, Source)>,
    /// How long they are waited for.
    pub(crate) patience: Patience,
}

/// How Envoy's own keys begin. What is not followed is refused: it would change what Envoy does.
const OWN: [&str; 17] = [
    "circuit_breakers.",
    "envoy.deprecated_features",
    "envoy.features.",
    "envoy.reloadable_features.",
    "envoy.resource_limits.",
    "envoy.restart_features.",
    "fault.http.",
    "health_check.",
    "http.",
    "outlier_detection.",
    "overload.",
    "ratelimit.",
    "re2.",
    "ssl.",
    "tcp.",
    "tracing.",
    "upstream.",
];
/// Those that are followed wherever their place is.
pub(crate) const DELAYED_SHARE: &str = "fault.http.delay.fixed_delay_percent";
pub(crate) const ABORTED_SHARE: &str = "fault.http.abort.abort_percent";

/// Reads the layers of the bootstrap; a later one overrides an earlier one.
pub(super) fn compile(
    path: &Path,
    message: &LayeredRuntime,
    servers: &Servers,
) -> Result<Runtime, ConfigError> {
    let mut runtime = Runtime::default();
    for (index, layer) in message.layers.iter().enumerate() {
        let path = path.item("layers", index);
        if layer.name.is_empty() || runtime.layers.iter().any(|other| other.name == layer.name) {
            return Err(path.field("name").error("must be there and unique"));
        }
        let mut read = Layer { name: layer.name.clone(), ..Layer::default() };
        match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(fields)) => {
                read.values = values(&path.field("static_layer"), fields)?;
            }
            // Nothing is put into it: the admin address cannot be asked to.
            Some(LayerSpecifier::AdminLayer(_)) => {}
            Some(LayerSpecifier::DiskLayer(_)) => return Err(path.field("disk_layer").unsupported()),
            Some(LayerSpecifier::RtdsLayer(layer)) => {
                let path = path.field("rtds_layer");
                if layer.name.is_empty() {
                    return Err(path.field("name").missing());
                }
                let path = path.field("rtds_config");
                let config = layer.rtds_config.as_ref().ok_or_else(|| path.missing())?;
                let source = Source::read(&path, Some(config), ResourceType::Runtime, servers)?;
                runtime.patience = runtime.patience.and(Patience::read(&path, Some(config))?);
                read.key = Some(source.key(&layer.name));
                runtime.resources.push((layer.name.clone(), source));
            }
            None => return Err(path.field("static_layer").missing()),
        }
        runtime.layers.push(read);
    }
    Ok(runtime)
}

/// The values of one layer.
pub(crate) fn values(path: &Path, fields: &Struct) -> Result<BTreeMap<String, Entry>, ConfigError> {
    let Value::Object(fields) = json::to_json(fields).map_err(|error| path.error(error.reason))? else {
        return Err(path.error("is not an object"));
    };
    let values = Entry::all(fields).map_err(|key| path.field(&key).error("is not a runtime value"))?;
    for (key, value) in &values {
        let of_listener = || {
            let rest = key.strip_prefix(LISTENER_CONNECTIONS.0);
            rest.is_some_and(|rest| rest.ends_with(LISTENER_CONNECTIONS.1))
        };
        if key == GLOBAL_CONNECTIONS || of_listener() {
            if value.integer().is_none() {
                return Err(path.field(key).error("must be a number, at least 0"));
            }
        } else if ![DELAYED_SHARE, ABORTED_SHARE].contains(&key.as_str())
            && OWN.iter().any(|own| key.starts_with(own))
        {
            return Err(path.field(key).unsupported());
        }
    }
    Ok(values)
}

/// The values that a resource of this name brings.
pub(crate) fn resource(
    path: &Path,
    message: &weft_xds::pb::envoy::service::runtime::v3::Runtime,
) -> Result<BTreeMap<String, Entry>, ConfigError> {
    match &message.layer {
        Some(fields) => values(&path.field("layer"), fields),
        None => Ok(BTreeMap::new()),
    }
}

#[cfg(test)]
mod tests {
    use weft_xds::{any, json::any_from_json};

    use super::*;

    fn error(layers: Value) -> String {
        let message = serde_json::json!({
            "@type": "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", "layered_runtime": {"layers": layers}});
        let any = any_from_json(&message).expect("a bootstrap");
        let message: weft_xds::pb::envoy::config::bootstrap::v3::Bootstrap =
            any::unpack(&any).expect("a bootstrap");
        let runtime = message.layered_runtime.expect("there");
        compile(&Path::root("layered_runtime"), &runtime, &Servers::default())
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_path() {
        use serde_json::json;
        let layer = |fields: Value| json!([{"name": "a", "static_layer": fields}]);
        for (layers, expected) in [
            (layer(json!({"x": null})), "layered_runtime.layers[0].static_layer.x: is not a runtime value"),
            (
                layer(json!({"upstream": {"healthy_panic_threshold": 1}})),
                "layered_runtime.layers[0].static_layer.upstream.healthy_panic_threshold: is not supported",
            ),
            (
                layer(json!({GLOBAL_CONNECTIONS: "many"})),
                "layered_runtime.layers[0].static_layer.overload.global_downstream_max_connections: must be a number, at least 0",
            ),
            (
                json!([{"name": "a", "rtds_layer": {"rtds_config": {"ads": {}}}}]),
                "layered_runtime.layers[0].rtds_layer.name: is required",
            ),
            (
                json!([{"name": "a", "rtds_layer": {"name": "r"}}]),
                "layered_runtime.layers[0].rtds_layer.rtds_config: is required",
            ),
            (
                json!([{"name": "a", "admin_layer": {}}, {"name": "a", "admin_layer": {}}]),
                "layered_runtime.layers[1].name: must be there and unique",
            ),
            (
                json!([{"name": "a", "disk_layer": {"symlink_root": "/"}}]),
                "layered_runtime.layers[0].disk_layer: is not supported",
            ),
        ] {
            assert_eq!(error(layers), expected);
        }
    }
}
