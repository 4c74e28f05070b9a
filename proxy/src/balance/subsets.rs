//! Subsets: parts of a cluster's endpoints, by their metadata, for requests that ask for one.
//!
//! Envoy's. A selector names keys; for every combination of values that endpoints have for these keys there is a subset.
//! A request asks by the `metadata_match` of its route: if that has exactly the keys of a selector, it gets the subset of
//! its values. What happens where there is none is said by the selector, or for the whole cluster.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    Ask, Balancing, Localities,
    level::{Levels, Making},
    policy::Choice,
};
use crate::{
    cluster::endpoint::{Endpoint, Host},
    metrics::ClusterCells,
};

/// The settings; Envoy's names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SubsetSettings {
    pub(crate) selectors: Vec<Selector>,
    pub(crate) fallback: Fallback,
    /// The values of [`Fallback::Default`].
    pub(crate) default: Criteria,
    /// Whether localities keep their weights within a subset.
    pub(crate) locality_weight_aware: bool,
    /// Anybody will do where the fall-back finds nobody.
    pub(crate) panic_mode_any: bool,
    /// An endpoint is in the subset of each element of a value that is a list.
    pub(crate) list_as_any: bool,
    /// Keys that no selector has do not matter.
    pub(crate) allow_redundant_keys: bool,
}

/// What subsets are made by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    /// In order, and each once.
    pub(crate) keys: Vec<String>,
    /// `None` is what is said for the whole cluster.
    pub(crate) fallback: Option<Fallback>,
}

/// Where there is no subset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Nobody.
    None,
    /// Anybody.
    Any,
    /// Those with the default values.
    Default,
    /// Only for selectors: again, with these keys only.
    Keys(Vec<String>),
}

/// What a request asks for: keys with their values, each as one text that is the same for the same value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Criteria {
    /// In the order of the keys.
    pairs: Vec<(String, String)>,
    /// All values together.
    joined: String,
}

/// What is known of an endpoint: for each key its value, and the elements if that is a list. Both as in [`Criteria`].
pub(crate) type Labels = BTreeMap<String, (String, Option<Vec<String>>)>;

/// The subsets of a rotation.
#[derive(Debug)]
pub(super) struct Subsets {
    settings: Arc<SubsetSettings>,
    /// One for each selector: its subsets by their values, joined.
    tables: Vec<HashMap<String, Levels>>,
    /// Those with the default values.
    default: Levels,
}

/// Combinations of one endpoint's lists that are made for a selector: a bound on memory.
const MOST_COMBINATIONS: usize = 1024;

// === impl Criteria ===

impl Criteria {
    pub(crate) fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let pairs: BTreeMap<String, String> = pairs.into_iter().collect();
        let joined = join(pairs.values());
        Self { pairs: pairs.into_iter().collect(), joined }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// These, and instead of them those of `inner` where it has the same keys.
    pub(crate) fn with(&self, inner: &Self) -> Self {
        Self::new(self.pairs.iter().chain(&inner.pairs).cloned())
    }

    fn has_keys(&self, keys: &[String]) -> bool {
        self.pairs.iter().map(|(key, _)| key).eq(keys)
    }

    /// Those of these keys, if it has all of them.
    fn only(&self, keys: &[String]) -> Option<Self> {
        let value = |key: &String| {
            let at = self.pairs.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
            Some(self.pairs[at].clone())
        };
        keys.iter().map(value).collect::<Option<Vec<_>>>().map(Self::new)
    }

    fn fits(&self, labels: &Labels, list_as_any: bool) -> bool {
        self.pairs.iter().all(|(key, wanted)| {
            labels.get(key).is_some_and(|(value, elements)| {
                value == wanted
                    || (list_as_any && elements.as_ref().is_some_and(|elements| elements.contains(wanted)))
            })
        })
    }
}

/// Values are written so that they have no line breaks.
fn join<'v>(values: impl Iterator<Item = &'v String>) -> String {
    values.map(String::as_str).collect::<Vec<_>>().join("\n")
}

// === impl Subsets ===

impl Subsets {
    pub(super) fn new(
        settings: &Arc<SubsetSettings>,
        making: Making<'_>,
        hosts: &[&Host],
        slot: &mut usize,
    ) -> Self {
        let localities = match making.balancing.localities {
            Localities::Weighted if !settings.locality_weight_aware => Localities::Ignored,
            other => other,
        };
        let balancing = Balancing { localities, subsets: None, ..making.balancing.clone() };
        let making = Making { balancing: &balancing, ..making };
        let tables = settings
            .selectors
            .iter()
            .map(|selector| {
                let mut members: BTreeMap<String, Vec<&Host>> = BTreeMap::new();
                for host in hosts {
                    for joined in combinations(selector, &host.labels, settings.list_as_any) {
                        members.entry(joined).or_default().push(*host);
                    }
                }
                let levels = members.into_iter();
                levels.map(|(joined, hosts)| (joined, Levels::new(making, &hosts, slot))).collect()
            })
            .collect();
        let default: Vec<&Host> = hosts
            .iter()
            .filter(|host| settings.default.fits(&host.labels, settings.list_as_any))
            .copied()
            .collect();
        let default = Levels::new(making, &default, slot);
        Self { settings: Arc::clone(settings), tables, default }
    }

    /// How many there are; how many of them are new since `before`, and how many are gone.
    pub(super) fn since(&self, before: Option<&Self>) -> (usize, usize, usize) {
        let all = |subsets: &Self| -> HashSet<(Vec<String>, String)> {
            let selectors = subsets.settings.selectors.iter().zip(&subsets.tables);
            selectors
                .flat_map(|(selector, table)| {
                    table.keys().map(|joined| (selector.keys.clone(), joined.clone()))
                })
                .collect()
        };
        let (now, before) = (all(self), before.map(all).unwrap_or_default());
        (now.len(), now.difference(&before).count(), before.difference(&now).count())
    }

    /// See [`super::pick`].
    pub(super) fn pick<'s>(
        &'s self,
        all: &'s Levels,
        choice: Choice<'_>,
        ask: &Ask<'_>,
        cells: &ClusterCells,
    ) -> Option<&'s Arc<Endpoint>> {
        let reduced;
        let mut criteria = ask.criteria;
        if self.settings.allow_redundant_keys
            && let Some(given) = criteria
        {
            let mut selectors = self.settings.selectors.iter();
            if let Some(found) = selectors.find_map(|selector| given.only(&selector.keys)) {
                reduced = found;
                criteria = Some(&reduced);
            }
        }
        if let Some(criteria) = criteria {
            let matching = |(selector, _): &(&Selector, _)| criteria.has_keys(&selector.keys);
            if let Some((selector, table)) = self.settings.selectors.iter().zip(&self.tables).find(matching) {
                if let Some(levels) = table.get(&criteria.joined) {
                    cells.lb_subsets_selected.add(1);
                    return levels.pick(choice, ask, cells);
                }
                match &selector.fallback {
                    None => {}
                    Some(Fallback::Keys(keys)) => {
                        // Fewer keys than before, so this ends.
                        let reduced = criteria.only(keys);
                        let ask = Ask { criteria: reduced.as_ref(), ..*ask };
                        return self.pick(all, choice, &ask, cells);
                    }
                    Some(Fallback::None) => return None,
                    Some(Fallback::Any) => return all.pick(choice, ask, cells),
                    Some(Fallback::Default) => return self.default.pick(choice, ask, cells),
                }
            }
        }
        let found = match self.settings.fallback {
            Fallback::Any => all.pick(choice, ask, cells),
            Fallback::Default => self.default.pick(choice, ask, cells),
            Fallback::None | Fallback::Keys(_) => return None,
        };
        if found.is_some() {
            cells.lb_subsets_fallback.add(1);
            return found;
        }
        let anybody = if self.settings.panic_mode_any { all.pick(choice, ask, cells) } else { None };
        if anybody.is_some() {
            cells.lb_subsets_fallback_panic.add(1);
        }
        anybody
    }
}

/// The subsets of a selector that an endpoint is in.
fn combinations(selector: &Selector, labels: &Labels, list_as_any: bool) -> Vec<String> {
    let mut found: Vec<Vec<&String>> = vec![Vec::new()];
    for key in &selector.keys {
        let Some((value, elements)) = labels.get(key) else { return Vec::new() };
        let elements = elements.as_deref().filter(|_| list_as_any);
        let values = std::slice::from_ref(value).iter().chain(elements.into_iter().flatten());
        found = found
            .iter()
            .flat_map(|before| {
                values.clone().map(move |value| before.iter().copied().chain([value]).collect())
            })
            .take(MOST_COMBINATIONS)
            .collect();
    }
    let joined: HashSet<String> = found.into_iter().map(|values| join(values.into_iter())).collect();
    joined.into_iter().collect()
}
