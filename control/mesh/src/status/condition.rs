//! The condition itself.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Service,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

/// Its type.
pub(crate) const PROGRAMMED: &str = "weft.dev/Programmed";

/// Kubernetes allows more; nobody reads it.
const MAX_MESSAGE: usize = 4096;

/// Why it is False.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// In one word, for programs.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

/// The condition that a service has.
pub(super) fn of(service: &Service) -> Option<&Condition> {
    service.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == PROGRAMMED)
}

/// The condition that the service is to have; `None` if it has it, or needs none.
pub(super) fn wanted(service: &Service, problem: Option<Problem>, now: Timestamp) -> Option<Condition> {
    let old = of(service);
    let (status, reason, mut message) = match problem {
        Some(problem) => ("False", problem.reason, problem.message),
        None => {
            old?;
            ("True", "Programmed", "what the service asks for is in force".to_owned())
        }
    };
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
    }
    let new = Condition {
        type_: PROGRAMMED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: service.metadata.generation,
        last_transition_time: match old {
            Some(old) if old.status == status => old.last_transition_time.clone(),
            // Kubernetes' times have whole seconds.
            _ => Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        },
    };
    (old != Some(&new)).then_some(new)
}
