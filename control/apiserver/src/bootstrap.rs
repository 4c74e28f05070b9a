//! The objects without which a cluster is none.

use serde_json::{Value, json};
use weft_api::{registry, status::Status};

use crate::{admission, app::App, config::ServiceCidr, storage::WriteError};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing.
pub(crate) async fn run(app: &App, cidr: ServiceCidr, port: u16) -> Result<(), Status> {
    for name in NAMESPACES {
        create(
            app,
            "namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await?;
    }
    let address = cidr.first().to_string();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    create(app, "services", service).await
}

async fn create(app: &App, plural: &str, mut object: Value) -> Result<(), Status> {
    let resource = registry::find("", "v1", plural).ok_or_else(Status::no_such_path)?;
    let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
    let (namespace, name) = (text("namespace"), text("name").unwrap_or_default());
    if app.storage.get(resource, namespace.as_deref(), &name).await.is_ok() {
        return Ok(());
    }
    admission::prepare_create(resource, &mut object);
    let reservation = admission::allocate_create(&app.services, resource, &mut object)?;
    match app.storage.put(resource, &object, None).await {
        Ok(_) => {
            reservation.keep();
            Ok(())
        }
        Err(WriteError::Conflict) => Ok(()),
        Err(WriteError::Failed(status)) => Err(status),
    }
}
