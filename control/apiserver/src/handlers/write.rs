//! The one way in which existing objects change: read, decide, write if nobody else did, else again.

use serde_json::Value;
use weft_api::{convert, registry::Resource, status::Status, validate};

use crate::{
    admission::{self, Part},
    context::Context,
    storage::{Stored, WriteError},
};

/// Attempts before a client is told to try again itself. Each lost attempt means that another writer succeeded.
const ATTEMPTS: usize = 32;

/// What a change made of an object.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The object as it is stored now, changed or not.
    Stored(Stored),
    /// What would be stored, of a dry run.
    Dry(Value),
}

/// Changes the object `name`. `propose` gets the object as clients see it and returns what it should become; it may be
/// called again if somebody else writes in between.
pub(crate) async fn change(
    context: &Context,
    part: Part,
    dry_run: bool,
    mut propose: impl FnMut(&Value) -> Result<Value, Status>,
) -> Result<Outcome, Status> {
    let (resource, name) = (context.resource, context.name()?);
    for _ in 0..ATTEMPTS {
        let stored = context.app.storage.get(resource, context.namespace(), name).await?;
        let old = stored.value();
        if resource.plural == "pods" {
            context.check_pod(&old)?;
        }
        let mut visible = old.clone();
        convert::from_storage(resource, &mut visible);
        let mut new = propose(&visible)?;
        convert::to_storage(resource, &mut new);
        check_identity(resource, name, &new, &old)?;
        admission::prepare_update(resource, part, &mut new, &old);
        if resource.plural == "pods" {
            context.check_pod_change(&new, &old)?;
        }
        let reservation = admission::allocate_update(&context.app.services, resource, &mut new, &old)?;
        // The node of a pod cannot be updated, only bound: a binding changes it and nothing that a client says.
        let errors = match part {
            Part::Binding => Vec::new(),
            _ => validate::update(resource, &new, &old),
        };
        if !errors.is_empty() {
            return Err(Status::invalid(resource, name, errors));
        }
        if dry_run {
            return Ok(Outcome::Dry(new));
        }
        if new == old {
            return Ok(Outcome::Stored(stored));
        }
        let written = if admission::is_gone(resource, &new) {
            let removed = context.app.storage.remove(resource, &new, stored.revision).await;
            removed.map(|()| {
                admission::released(&context.app.services, resource, &new);
                stored
            })
        } else {
            context.app.storage.put(resource, &new, Some(stored.revision)).await
        };
        match written {
            Ok(stored) => {
                reservation.keep();
                return Ok(Outcome::Stored(stored));
            }
            Err(WriteError::Conflict) => {}
            Err(WriteError::Failed(status)) => return Err(status),
        }
    }
    Err(Status::stale(resource, name))
}

/// Whoever says which object, or which version of it, is meant, gets an error if it is not that one.
pub(crate) fn check_identity(
    resource: &Resource,
    name: &str,
    new: &Value,
    old: &Value,
) -> Result<(), Status> {
    let said = |object: &Value, field: &str| {
        object["metadata"][field].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if let (Some(new), Some(old)) = (said(new, "uid"), said(old, "uid"))
        && new != old
    {
        let why = format!("Precondition failed: UID in precondition: {new}, UID in object meta: {old}");
        return Err(Status::conflict(resource, name, &why));
    }
    match said(new, "resourceVersion") {
        Some(version) if version.parse::<u64>().is_err() => {
            Err(Status::bad_request(format!("metadata.resourceVersion: Invalid value: {version:?}")))
        }
        // Zero stands for "whatever is there", as an empty one does.
        Some(version) if version != "0" && Some(&version) != said(old, "resourceVersion").as_ref() => {
            Err(Status::stale(resource, name))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_api::registry;

    use super::*;

    #[test]
    fn another_version_or_object_is_a_conflict() {
        let pods = registry::find("", "v1", "pods").unwrap();
        let old = json!({"metadata": {"uid": "u", "resourceVersion": "5"}});
        let check = |metadata: Value| check_identity(pods, "a", &json!({"metadata": metadata}), &old);
        check(json!({})).unwrap();
        check(json!({"uid": "u", "resourceVersion": "5"})).unwrap();
        check(json!({"resourceVersion": "0"})).unwrap();
        assert_eq!(check(json!({"resourceVersion": "4"})).unwrap_err().code, 409);
        assert_eq!(check(json!({"uid": "v"})).unwrap_err().code, 409);
        assert_eq!(check(json!({"resourceVersion": "x"})).unwrap_err().code, 400);
    }
}
