//! When a pod has to leave a tainted node.

use k8s_openapi::{
    api::core::v1::{Pod, Taint, Toleration},
    jiff::{SignedDuration, Timestamp},
};

use super::assess::{NOT_READY, UNREACHABLE};

/// When the pod has to go because of the node's `NoExecute` taints; `None` if it may stay.
///
/// A pod that says nothing of unready nodes bears them for `default_seconds`, as the API server would have written into it.
pub(super) fn leaves_at(
    pod: &Pod,
    taints: &[Taint],
    default_seconds: i64,
    now: Timestamp,
) -> Option<Timestamp> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut earliest: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        let seconds = if matching.is_empty() {
            Some(if [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) { default_seconds } else { 0 })
        } else {
            // One toleration without an end is not shortened away by another with one: the shortest that has an end counts.
            matching.iter().filter_map(|toleration| toleration.toleration_seconds).min()
        };
        let Some(seconds) = seconds else { continue };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let leaves = since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        earliest = Some(earliest.map_or(leaves, |earlier| earlier.min(leaves)));
    }
    earliest
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let field = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (field(&toleration.key), field(&toleration.effect));
    let key_fits = key.is_empty() || key == taint.key;
    let effect_fits = effect.is_empty() || effect == taint.effect;
    let value_fits = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && field(&toleration.value) == field(&taint.value),
        Some(_) => false,
    };
    key_fits && effect_fits && value_fits
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::testing::{at, ready_pod};

    fn taint(key: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            time_added: Some(Time(at(100))),
            value: None,
        }
    }

    fn pod(tolerations: &[(&str, Option<i64>)]) -> Pod {
        let mut pod = ready_pod("p", "n", 0);
        let toleration = |(key, seconds): &(&str, Option<i64>)| Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            toleration_seconds: *seconds,
            ..Default::default()
        };
        pod.spec.get_or_insert_default().tolerations = Some(tolerations.iter().map(toleration).collect());
        pod
    }

    #[test]
    fn pods_bear_dead_nodes_for_a_while_and_other_taints_not_at_all() {
        assert_eq!(leaves_at(&pod(&[]), &[taint(UNREACHABLE)], 300, at(100)), Some(at(400)));
        assert_eq!(leaves_at(&pod(&[]), &[taint("maintenance")], 300, at(100)), Some(at(100)));
        assert_eq!(leaves_at(&pod(&[]), &[], 300, at(100)), None);
    }

    #[test]
    fn a_pod_decides_for_itself_how_long_it_bears_a_taint() {
        assert_eq!(
            leaves_at(&pod(&[(UNREACHABLE, Some(5))]), &[taint(UNREACHABLE)], 300, at(100)),
            Some(at(105))
        );
        assert_eq!(leaves_at(&pod(&[(UNREACHABLE, None)]), &[taint(UNREACHABLE)], 300, at(100)), None);
        let both = [taint(UNREACHABLE), taint("maintenance")];
        assert_eq!(leaves_at(&pod(&[("maintenance", Some(9))]), &both, 300, at(100)), Some(at(109)));
    }
}
