//! Compiling the overload manager.

use std::time::Duration;

use weft_xds::{
    any,
    pb::envoy::{
        config::overload::v3::{
            OverloadManager, ResourceMonitor, Trigger as ProtoTrigger, resource_monitor, trigger,
        },
        extensions::resource_monitors::{
            cgroup_memory::v3::CgroupMemoryConfig, downstream_connections::v3::DownstreamConnectionsConfig,
            fixed_heap::v3::FixedHeapConfig,
        },
    },
};

use super::{ConfigError, Path, unsupported, value};
use crate::overload::{
    Action,
    manager::{Manager, Monitor, Rule, Trigger},
    memory::{CgroupMemory, FixedHeap},
};

/// A compiled overload manager.
pub(crate) struct Protection {
    /// `None` if there is nothing to watch.
    pub(crate) manager: Option<Manager>,
    pub(crate) max_connections: Option<u64>,
}

/// Envoy's default.
const REFRESH: Duration = Duration::from_secs(1);
/// Of the protection that there is without configuration; the rhythm of Envoy's own guide.
const OWN_REFRESH: Duration = Duration::from_millis(250);
const CGROUP_MEMORY: &str = "envoy.resource_monitors.cgroup_memory";

/// What watches over the process if the bootstrap says nothing.
pub(crate) fn default() -> Protection {
    let manager = CgroupMemory::of_process(None).map(|monitor| {
        tracing::info!(limit = monitor.limit(), "memory is limited, load is shed before it is used up");
        let monitors: Vec<(String, Box<dyn Monitor>)> = vec![(CGROUP_MEMORY.to_owned(), Box::new(monitor))];
        let rule = |action, threshold| Rule { action, monitor: 0, trigger: Trigger::Threshold(threshold) };
        let rules = vec![
            rule(Action::DisableKeepalive, 0.92),
            rule(Action::StopAcceptingRequests, 0.95),
            rule(Action::StopAcceptingConnections, 0.95),
        ];
        Manager::new(OWN_REFRESH, monitors, rules)
    });
    Protection { manager, max_connections: None }
}

/// Compiles the field at `path`.
pub(crate) fn compile(path: &Path, message: &OverloadManager) -> Result<Protection, ConfigError> {
    unsupported!(path, message; loadshed_points, buffer_factory_config);
    let mut monitors: Vec<(String, Box<dyn Monitor>)> = Vec::new();
    let mut max_connections = None;
    for (index, monitor) in message.resource_monitors.iter().enumerate() {
        let path = path.item("resource_monitors", index);
        if monitors.iter().any(|(name, _)| *name == monitor.name) {
            return Err(path.field("name").error(format!("there are two monitors {:?}", monitor.name)));
        }
        match resource_monitor(&path, monitor)? {
            Resource::Pressure(compiled) => monitors.push((monitor.name.clone(), compiled)),
            Resource::Connections(max) => max_connections = Some(max),
        }
    }
    let mut rules = Vec::new();
    for (index, action) in message.actions.iter().enumerate() {
        let path = path.item("actions", index);
        unsupported!(path, action; typed_config);
        let known = Action::ALL
            .into_iter()
            .find(|known| known.name() == action.name)
            .ok_or_else(|| path.field("name").error(format!("action {:?} is not supported", action.name)))?;
        for (index, message) in action.triggers.iter().enumerate() {
            let path = path.item("triggers", index);
            let monitor = monitors
                .iter()
                .position(|(name, _)| *name == message.name)
                .ok_or_else(|| path.field("name").error(format!("there is no monitor {:?}", message.name)))?;
            rules.push(Rule { action: known, monitor, trigger: trigger(&path, message)? });
        }
    }
    let refresh =
        value::limit(&path.field("refresh_interval"), message.refresh_interval.as_ref(), Some(REFRESH))?;
    let refresh = refresh.ok_or_else(|| path.field("refresh_interval").error("must not be zero"))?;
    let manager = (!monitors.is_empty()).then(|| Manager::new(refresh, monitors, rules));
    Ok(Protection { manager, max_connections })
}

/// What a monitor message stands for.
enum Resource {
    Pressure(Box<dyn Monitor>),
    Connections(u64),
}

fn resource_monitor(path: &Path, message: &ResourceMonitor) -> Result<Resource, ConfigError> {
    let path = path.field("typed_config");
    let Some(resource_monitor::ConfigType::TypedConfig(config)) = &message.config_type else {
        return Err(path.missing());
    };
    match any::type_name(&config.type_url) {
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig" => {
            let heap = value::unpacked(&path, any::unpack::<FixedHeapConfig>(config))?;
            unsupported!(path, heap; max_heap_size_bytes_runtime);
            let max = match heap.max_heap_size_bytes {
                0 => CgroupMemory::of_process(None).and_then(|group| group.limit()).ok_or_else(|| {
                    path.field("max_heap_size_bytes")
                        .error("is required where no control group limits memory")
                })?,
                max => max,
            };
            Ok(Resource::Pressure(Box::new(FixedHeap { max })))
        }
        "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig" => {
            let group = value::unpacked(&path, any::unpack::<CgroupMemoryConfig>(config))?;
            let max = Some(group.max_memory_bytes).filter(|max| *max > 0);
            let monitor = CgroupMemory::of_process(max)
                .ok_or_else(|| path.error("no control group limits the memory of this process"))?;
            Ok(Resource::Pressure(Box::new(monitor)))
        }
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig" => {
            let limit = value::unpacked(&path, any::unpack::<DownstreamConnectionsConfig>(config))?;
            match u64::try_from(limit.max_active_downstream_connections) {
                Ok(max) if max > 0 => Ok(Resource::Connections(max)),
                _ => Err(path.field("max_active_downstream_connections").error("must be at least 1")),
            }
        }
        other => Err(path.field("@type").error(format!("resource monitor {other:?} is not supported"))),
    }
}

fn trigger(path: &Path, message: &ProtoTrigger) -> Result<Trigger, ConfigError> {
    let fraction = |path: &Path, value: f64| {
        if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(path.error("must be from 0 to 1")) }
    };
    match &message.trigger_oneof {
        Some(trigger::TriggerOneof::Threshold(threshold)) => {
            Ok(Trigger::Threshold(fraction(&path.field("threshold.value"), threshold.value)?))
        }
        Some(trigger::TriggerOneof::Scaled(scaled)) => {
            let path = path.field("scaled");
            let from = fraction(&path.field("scaling_threshold"), scaled.scaling_threshold)?;
            let to = fraction(&path.field("saturation_threshold"), scaled.saturation_threshold)?;
            if from >= to {
                return Err(path.field("scaling_threshold").error("must be below saturation_threshold"));
            }
            Ok(Trigger::Scaled { from, to })
        }
        None => Err(path.field("threshold").missing()),
    }
}
