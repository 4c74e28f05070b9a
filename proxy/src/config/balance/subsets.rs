//! Compiling subsets: `lb_subset_config`, and the extension that says the same around another policy.

use weft_xds::{
    any,
    pb::envoy::{
        config::cluster::v3::cluster::LbSubsetConfig, extensions::load_balancing_policies::subset::v3::Subset,
    },
    pb::google::protobuf::{Any, Struct},
};

use super::{extension, found::Found};
use crate::{
    balance::{Fallback, Localities, Selector, SubsetSettings},
    config::{ConfigError, Path, labels, unsupported, value},
};

/// What both messages say in the same words and numbers.
struct Said<'m> {
    fallback_policy: i32,
    default_subset: Option<&'m Struct>,
    selectors: Vec<SaidSelector<'m>>,
    locality_weight_aware: bool,
    panic_mode_any: bool,
    list_as_any: bool,
    allow_redundant_keys: bool,
}

struct SaidSelector<'m> {
    keys: &'m [String],
    fallback_policy: i32,
    fallback_keys: &'m [String],
}

/// Reads either message: their fields have the same names, and their types nothing else in common.
macro_rules! said {
    ($path:expr, $message:expr, allow_redundant_keys: $redundant:expr) => {{
        let (path, message) = ($path, $message);
        unsupported!(path, message; scale_locality_weight, metadata_fallback_policy);
        let mut selectors = Vec::new();
        for (index, selector) in message.subset_selectors.iter().enumerate() {
            let path = path.item("subset_selectors", index);
            unsupported!(path, selector; single_host_per_subset);
            selectors.push(SaidSelector {
                keys: &selector.keys,
                fallback_policy: selector.fallback_policy,
                fallback_keys: &selector.fallback_keys_subset,
            });
        }
        Said {
            fallback_policy: message.fallback_policy,
            default_subset: message.default_subset.as_ref(),
            selectors,
            locality_weight_aware: message.locality_weight_aware,
            panic_mode_any: message.panic_mode_any,
            list_as_any: message.list_as_any,
            allow_redundant_keys: $redundant,
        }
    }};
}

/// What a cluster says; `None` without selectors, where there is nothing to choose by.
pub(super) fn of_cluster(
    path: &Path,
    message: &LbSubsetConfig,
) -> Result<Option<SubsetSettings>, ConfigError> {
    compile(path, said!(path, message, allow_redundant_keys: false))
}

/// The extension: a policy with subsets.
pub(super) fn of_extension(path: &Path, config: &Any, default: Localities) -> Result<Found, ConfigError> {
    let message: Subset = value::unpacked(path, any::unpack(config))?;
    let subsets = compile(path, said!(path, &message, allow_redundant_keys: message.allow_redundant_keys))?;
    let path = path.field("subset_lb_policy");
    let inner = message.subset_lb_policy.as_ref().ok_or_else(|| path.missing())?;
    let inner = extension::compile(&path, inner, default)?;
    if inner.subsets.is_some() {
        return Err(path.error("subsets in subsets are not supported"));
    }
    Ok(Found { subsets, ..inner })
}

fn compile(path: &Path, said: Said<'_>) -> Result<Option<SubsetSettings>, ConfigError> {
    let fallback = match said.fallback_policy {
        0 => Fallback::None,
        1 => Fallback::Any,
        2 => Fallback::Default,
        _ => return Err(path.field("fallback_policy").error("is not a known value")),
    };
    let default = match said.default_subset {
        Some(fields) => labels::of_struct(&path.field("default_subset"), fields)?,
        None => Default::default(),
    };
    let selectors = said.selectors.iter().enumerate();
    let selectors = selectors
        .map(|(index, selector)| self::selector(&path.item("subset_selectors", index), selector))
        .collect::<Result<Vec<_>, _>>()?;
    // As in Envoy, selectors are what turns it on; without them a fall-back alone is not followed.
    if selectors.is_empty() {
        return Ok(None);
    }
    Ok(Some(SubsetSettings {
        selectors,
        fallback,
        default,
        locality_weight_aware: said.locality_weight_aware,
        panic_mode_any: said.panic_mode_any,
        list_as_any: said.list_as_any,
        allow_redundant_keys: said.allow_redundant_keys,
    }))
}

fn selector(path: &Path, said: &SaidSelector<'_>) -> Result<Selector, ConfigError> {
    let ordered = |keys: &[String]| {
        let mut keys = keys.to_vec();
        keys.sort();
        keys.dedup();
        keys
    };
    let keys = ordered(said.keys);
    if keys.is_empty() {
        return Err(path.field("keys").missing());
    }
    let fallback = match said.fallback_policy {
        0 => None,
        1 => Some(Fallback::None),
        2 => Some(Fallback::Any),
        3 => Some(Fallback::Default),
        4 => {
            let fewer = ordered(said.fallback_keys);
            let path = path.field("fallback_keys_subset");
            if fewer.is_empty() {
                return Err(path.missing());
            }
            if fewer.len() >= keys.len() || !fewer.iter().all(|key| keys.contains(key)) {
                return Err(path.error("must be some of the keys, and not all"));
            }
            Some(Fallback::Keys(fewer))
        }
        _ => return Err(path.field("fallback_policy").error("is not a known value")),
    };
    Ok(Selector { keys, fallback })
}
