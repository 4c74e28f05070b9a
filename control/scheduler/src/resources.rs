//! Amounts of what a node offers and pods ask for.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// Name of the processor resource; counted in thousandths.
pub const CPU: &str = "cpu";
/// Name of the memory resource; counted in bytes.
pub const MEMORY: &str = "memory";
/// Name under which a node says how many pods it takes.
pub const PODS: &str = "pods";

/// What a container without a request is taken to use when nodes are compared (never when they are filtered), so that
/// pods without requests spread too. The numbers are kube-scheduler's.
const ASSUMED_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name: processor in thousandths, everything else in whole units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, i64>);

// === impl Resources ===

impl Resources {
    /// Reads a map of quantities, as `requests` and `allocatable` are.
    ///
    /// The API server has validated them; one that still does not parse counts as zero.
    pub fn from_quantities(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let amounts = quantities.into_iter().flatten();
        Self(amounts.map(|(name, quantity)| (name.clone(), amount(name, quantity))).collect())
    }

    /// The amount of one resource; zero if it is not mentioned.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Name and amount of everything mentioned.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Adds what `other` has.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Takes away what `other` has.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*amount);
        }
    }

    /// For every resource the larger of the two amounts.
    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// What a pod asks for: its containers together, or its hungriest init container if that needs more.
///
/// Init containers with `restartPolicy: Always` keep running, so they count with everything that starts after them.
pub fn requests(spec: &PodSpec) -> Resources {
    total(spec, |container| declared(container.resources.as_ref()))
}

/// What a pod is taken to use of processor and memory when nodes are compared.
pub fn assumed_use(spec: &PodSpec) -> Resources {
    total(spec, |container| {
        let mut amounts = declared(container.resources.as_ref());
        amounts.0.entry(CPU.to_owned()).or_insert(ASSUMED_CPU);
        amounts.0.entry(MEMORY.to_owned()).or_insert(ASSUMED_MEMORY);
        amounts
    })
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let amounts = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&amounts);
            starting.raise_to(&running);
        } else {
            let mut with_sidecars = running.clone();
            with_sidecars.add(&amounts);
            starting.raise_to(&with_sidecars);
        }
    }
    for container in &spec.containers {
        running.add(&of(container));
    }
    running.raise_to(&starting);
    // Requests of the pod as a whole stand above those of its containers.
    for (name, amount) in declared(spec.resources.as_ref()).0 {
        running.0.insert(name, amount);
    }
    running.add(&Resources::from_quantities(spec.overhead.as_ref()));
    running
}

/// Requests, and where only a limit is given, the limit.
fn declared(resources: Option<&ResourceRequirements>) -> Resources {
    let Some(resources) = resources else { return Resources::default() };
    let mut amounts = Resources::from_quantities(resources.limits.as_ref());
    amounts.0.extend(Resources::from_quantities(resources.requests.as_ref()).0);
    amounts
}

fn amount(name: &str, quantity: &Quantity) -> i64 {
    let Ok(quantity) = quantity.0.parse::<weft_api::quantity::Quantity>() else { return 0 };
    if name == CPU { quantity.cpu_millis() } else { quantity.bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: &str, restart_policy: Option<&str>) -> Container {
        let requests = [(CPU.to_owned(), Quantity(cpu.to_owned()))].into();
        Container {
            resources: Some(ResourceRequirements { requests: Some(requests), ..Default::default() }),
            restart_policy: restart_policy.map(str::to_owned),
            ..Default::default()
        }
    }

    #[test]
    fn containers_add_up_and_the_largest_init_container_counts_if_it_needs_more() {
        let mut spec =
            PodSpec { containers: vec![container("200m", None), container("1", None)], ..Default::default() };
        assert_eq!(requests(&spec).get(CPU), 1200);
        spec.init_containers = Some(vec![container("500m", Some("Always")), container("3", None)]);
        assert_eq!(requests(&spec).get(CPU), 3500);
    }

    #[test]
    fn a_limit_without_a_request_is_the_request() {
        let limits = [(MEMORY.to_owned(), Quantity("64Mi".to_owned()))].into();
        let resources = ResourceRequirements { limits: Some(limits), ..Default::default() };
        let spec = PodSpec {
            containers: vec![Container { resources: Some(resources), ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(requests(&spec).get(MEMORY), 64 << 20);
    }

    #[test]
    fn pods_without_requests_weigh_something_when_compared_and_nothing_when_filtered() {
        let spec = PodSpec { containers: vec![Container::default()], ..Default::default() };
        assert_eq!(requests(&spec).get(CPU), 0);
        assert_eq!(assumed_use(&spec).get(CPU), 100);
    }
}
