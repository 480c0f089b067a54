//! Home: a volume whose data was on this cluster before the cluster became a standby stays where it is.
//!
//! Where a volume is cannot be changed in its PersistentVolume, and need not: its data comes back to where it was.
//! Such a volume carries an annotation from the moment it stood still, and what is applied to it since says nothing
//! of its place.

use serde_json::Value;

use super::fault::Fault;
use super::prepare::marks;
use crate::normalise::HOME_ANNOTATION;

/// What a volume's `spec` has besides its place.
const ELSEWHERE: [&str; 8] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Takes the place out of the volume that is to be applied, and marks it again.
pub(super) fn stay(body: &mut Value) -> Result<(), Fault> {
    if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|name, _| ELSEWHERE.contains(&name.as_str()));
    }
    mark(body)
}

/// Marks a volume that is at home here.
pub(super) fn mark(volume: &mut Value) -> Result<(), Fault> {
    marks(volume, "annotations")?.insert(HOME_ANNOTATION.to_owned(), "true".into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_applied_says_nothing_of_the_place() {
        let mut body = json!({"spec": {"hostPath": {"path": "/there"}, "nodeAffinity": {}, "capacity": {"storage": "1Gi"}}});
        stay(&mut body).unwrap();
        assert_eq!(
            body,
            json!({"spec": {"capacity": {"storage": "1Gi"}}, "metadata": {"annotations": {HOME_ANNOTATION: "true"}}})
        );
    }
}
