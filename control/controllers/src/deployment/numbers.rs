//! How many pods a Deployment may have and must have while it rolls.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// Wanted number of pods.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether old and new pods may run side by side.
pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

/// How many pods more than wanted may exist.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { bounds(deployment).0 } else { 0 }
}

/// How many pods fewer than wanted may be available.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let replicas = replicas(deployment);
    if !is_rolling(deployment) || replicas == 0 { 0 } else { bounds(deployment).1.min(replicas) }
}

/// Wanted number of pods of a ReplicaSet.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Number of pods of a ReplicaSet that have been ready for long enough.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Sum over ReplicaSets.
pub(super) fn sum<'a>(
    sets: impl IntoIterator<Item = &'a ReplicaSet>,
    of: impl Fn(&ReplicaSet) -> i32,
) -> i32 {
    sets.into_iter().map(of).fold(0, i32::saturating_add)
}

/// The size that the newest ReplicaSet may grow to when all sets together have `total` pods.
pub(super) fn new_size(deployment: &Deployment, current: i32, total: i32) -> i32 {
    let wanted = replicas(deployment);
    if !is_rolling(deployment) {
        return wanted;
    }
    let room = wanted.saturating_add(max_surge(deployment)).saturating_sub(total);
    if room <= 0 { current } else { current + room.min(wanted - current) }
}

/// Surge (rounded up) and unavailability (rounded down); never both zero, or nothing could ever move.
fn bounds(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.as_ref().and_then(|spec: &DeploymentSpec| spec.strategy.as_ref());
    let rolling = rolling.and_then(|strategy| strategy.rolling_update.as_ref());
    let replicas = replicas(deployment);
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    match (scaled(surge, replicas, true), scaled(unavailable, replicas, false)) {
        (0, 0) => (0, 1),
        bounds => bounds,
    }
}

/// A number, or a percentage of `total`. What is neither (the API server lets none through) counts as zero.
fn scaled(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0);
            let product = percent.saturating_mul(i64::from(total));
            let rounded = if up { product.saturating_add(99) } else { product };
            i32::try_from(rounded / 100).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};

    use super::*;
    use crate::testing::deployment;

    fn rolling(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        let mut deployment = deployment(replicas, "a");
        let text = |text: &str| match text.parse() {
            Ok(number) => IntOrString::Int(number),
            Err(_) => IntOrString::String(text.to_owned()),
        };
        deployment.spec.get_or_insert_default().strategy = Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(text(surge)),
                max_unavailable: Some(text(unavailable)),
            }),
        });
        deployment
    }

    #[test]
    fn percentages_round_surge_up_and_unavailability_down() {
        for (replicas, surge, unavailable, expected) in [
            (3, "25%", "25%", (1, 0)),
            (10, "25%", "25%", (3, 2)),
            (10, "0", "0%", (0, 1)),
            (2, "100%", "5", (2, 2)),
            (0, "25%", "25%", (0, 0)),
        ] {
            let deployment = rolling(replicas, surge, unavailable);
            let bounds = (max_surge(&deployment), max_unavailable(&deployment));
            assert_eq!(bounds, expected, "{replicas} {surge} {unavailable}");
        }
    }

    #[test]
    fn the_new_set_grows_only_into_the_room_there_is() {
        let deployment = rolling(3, "1", "0");
        assert_eq!(new_size(&deployment, 0, 3), 1);
        assert_eq!(new_size(&deployment, 1, 4), 1);
        assert_eq!(new_size(&deployment, 1, 3), 2);
        assert_eq!(new_size(&deployment, 0, 0), 3);
    }
}
