//! Requests of the controllers: server-side applies, each bounded in time and safe to repeat.

use std::future::Future;
use std::time::Duration;

use backstay_types::{Class, Classify};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{FIELD_MANAGER, difference, error_class, error_text};

/// A server that is alive answers a single object well within this; the Lease is lost after 10 s anyway.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Owner of our finalizers: of its own, so that writing one takes no other field away from anybody.
const FINALIZER_MANAGER: &str = "backstay-finalizer";

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("{}", error_text(.0))]
    Api(#[from] kube::Error),
    #[error("no answer in {REQUEST_TIMEOUT:?}")]
    Slow,
}

impl Classify for WriteError {
    fn class(&self) -> Class {
        match self {
            WriteError::Api(error) => error_class(error),
            WriteError::Slow => Class::Transient,
        }
    }
}

/// Waits no longer than a request may take.
pub(super) async fn bounded<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WriteError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(WriteError::Slow),
    }
}

/// One kind of custom resources.
#[derive(Clone)]
pub(super) struct Kind {
    client: Client,
    pub(super) resource: ApiResource,
    is_namespaced: bool,
}

impl Kind {
    pub(super) fn new(client: &Client, resource: ApiResource, is_namespaced: bool) -> Self {
        Self { client: client.clone(), resource, is_namespaced }
    }

    /// All of this kind.
    pub(super) fn all(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &self.resource)
    }

    fn api(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.filter(|_| self.is_namespaced) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &self.resource),
            None => self.all(),
        }
    }

    fn body(&self, name: &str, mut metadata: Value, field: &str, value: &Value) -> Value {
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("name".to_owned(), json!(name));
        }
        let mut body = json!({
            "apiVersion": self.resource.api_version, "kind": self.resource.kind, "metadata": metadata,
        });
        if let Some(body) = body.as_object_mut().filter(|_| !value.is_null()) {
            body.insert(field.to_owned(), value.clone());
        }
        body
    }

    /// Makes an object, or makes it so again.
    pub(super) async fn apply(
        &self,
        namespace: Option<&str>,
        name: &str,
        labels: &Value,
        spec: &Value,
    ) -> Result<(), WriteError> {
        let body = self.body(name, json!({"labels": labels}), "spec", spec);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        bounded(self.api(namespace).patch(name, &params, &Patch::Apply(body))).await.map(drop)
    }

    /// Writes the status of an object that is still the one that was seen.
    pub(super) async fn apply_status(
        &self,
        object: &DynamicObject,
        status: &Value,
    ) -> Result<(), WriteError> {
        let name = object.name_any();
        let body = self.body(&name, json!({"uid": object.uid()}), "status", status);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api(object.namespace().as_deref());
        bounded(api.patch_status(&name, &params, &Patch::Apply(body))).await.map(drop)
    }

    /// Puts a finalizer on an object, or takes it off.
    pub(super) async fn set_finalizer(
        &self,
        object: &DynamicObject,
        finalizer: &str,
        is_set: bool,
    ) -> Result<(), WriteError> {
        let name = object.name_any();
        let api = self.api(object.namespace().as_deref());
        if is_set {
            let metadata = json!({"uid": object.uid(), "finalizers": [finalizer]});
            let body = self.body(&name, metadata, "", &Value::Null);
            let params = PatchParams::apply(FINALIZER_MANAGER).force();
            return absent_is_fine(bounded(api.patch(&name, &params, &Patch::Apply(body))).await);
        }
        // Whoever wrote the resource may have written our finalizer as well, and an apply leaves what others own. The
        // version keeps one that somebody adds meanwhile.
        let left: Vec<_> = object.finalizers().iter().filter(|other| *other != finalizer).collect();
        let metadata =
            json!({"uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": left});
        let body = json!({"metadata": metadata});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        absent_is_fine(bounded(api.patch(&name, &params, &Patch::Merge(body))).await)
    }

    /// Changes an object that is still the one that was seen: labels are added, and its spec becomes `spec`, whoever wrote
    /// what is there.
    pub(super) async fn replace(
        &self,
        object: &DynamicObject,
        labels: &Value,
        spec: &Value,
    ) -> Result<(), WriteError> {
        let change = difference(object.data.get("spec").unwrap_or(&Value::Null), spec);
        let body = json!({"metadata": {"uid": object.uid(), "labels": labels}, "spec": change});
        let api = self.api(object.namespace().as_deref());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        bounded(api.patch(&object.name_any(), &params, &Patch::Merge(body))).await.map(drop)
    }

    /// Takes a label off.
    pub(super) async fn unlabel(&self, object: &DynamicObject, label: &str) -> Result<(), WriteError> {
        let body = json!({"metadata": {"uid": object.uid(), "labels": {label: null}}});
        let api = self.api(object.namespace().as_deref());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        bounded(api.patch(&object.name_any(), &params, &Patch::Merge(body))).await.map(drop)
    }

    /// Deletes an object that is still the one that was seen.
    pub(super) async fn delete(&self, object: &DynamicObject) -> Result<(), WriteError> {
        let preconditions = Preconditions { uid: object.uid(), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        let api = self.api(object.namespace().as_deref());
        absent_is_fine(bounded(api.delete(&object.name_any(), &params)).await.map(drop))
    }
}

fn absent_is_fine<T>(outcome: Result<T, WriteError>) -> Result<(), WriteError> {
    match outcome {
        Err(WriteError::Api(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        outcome => outcome.map(drop),
    }
}
