//! The schema definitions of all served kinds, as k8s-openapi has them.

use std::sync::LazyLock;

use k8s_openapi::api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// Definition name to JSON schema; references have the form `#/definitions/NAME`.
pub(crate) type Definitions = Map<String, Value>;

/// Start of each reference.
pub(crate) const REFERENCE: &str = "#/definitions/";

static DEFINITIONS: LazyLock<Definitions> = LazyLock::new(|| {
    let mut settings = SchemaSettings::draft07();
    settings.definitions_path = "/definitions".into();
    let mut generator = settings.into_generator();
    add::<api::core::v1::Binding>(&mut generator);
    add::<api::core::v1::ConfigMap>(&mut generator);
    add::<api::core::v1::Event>(&mut generator);
    add::<api::core::v1::Namespace>(&mut generator);
    add::<api::core::v1::Node>(&mut generator);
    add::<api::core::v1::Pod>(&mut generator);
    add::<api::core::v1::Secret>(&mut generator);
    add::<api::core::v1::Service>(&mut generator);
    add::<api::core::v1::ServiceAccount>(&mut generator);
    add::<api::events::v1::Event>(&mut generator);
    add::<api::apps::v1::Deployment>(&mut generator);
    add::<api::apps::v1::ReplicaSet>(&mut generator);
    add::<api::batch::v1::Job>(&mut generator);
    add::<api::coordination::v1::Lease>(&mut generator);
    add::<api::discovery::v1::EndpointSlice>(&mut generator);
    add::<api::autoscaling::v1::Scale>(&mut generator);
    add::<api::policy::v1::Eviction>(&mut generator);
    add::<api::authentication::v1::SelfSubjectReview>(&mut generator);
    add::<api::authentication::v1::TokenReview>(&mut generator);
    add::<api::authorization::v1::SelfSubjectAccessReview>(&mut generator);
    add::<api::authorization::v1::SelfSubjectRulesReview>(&mut generator);
    add::<meta::DeleteOptions>(&mut generator);
    add::<meta::Status>(&mut generator);
    add::<meta::ListMeta>(&mut generator);
    generator.take_definitions(false)
});

/// All definitions.
pub(crate) fn definitions() -> &'static Definitions {
    &DEFINITIONS
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}
