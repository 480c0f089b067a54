//! The order of an apply: what others need goes first, what stands in their way last.
//!
//! This is the order in which *held* objects are written to a cluster; [`crate::wave`] is the one in which they
//! are released. Deletions go the other way round.

use crate::GroupKind;

/// Definitions of custom resources; the next wave begins once they are established.
pub const CRDS: u8 = 0;
/// Namespaces.
pub const NAMESPACES: u8 = 1;
/// Custom resources without a controller to start: all that is listed nowhere else.
pub const CUSTOM: u8 = 9;
/// The last wave.
pub const LAST: u8 = 15;

/// The wave an object of `kind` is applied in.
pub fn order(kind: &GroupKind) -> u8 {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => CRDS,
        ("", "Namespace") => NAMESPACES,
        ("storage.k8s.io" | "scheduling.k8s.io" | "node.k8s.io", _)
        | ("networking.k8s.io", "IngressClass") => 2,
        ("", "PersistentVolume") => 3,
        ("", "PersistentVolumeClaim") => 4,
        ("rbac.authorization.k8s.io", _) | ("", "ServiceAccount") => 5,
        ("", "Secret" | "ConfigMap") => 6,
        ("", "LimitRange") | ("networking.k8s.io", "NetworkPolicy") => 7,
        ("", "Endpoints" | "Service") | ("discovery.k8s.io", _) => 8,
        ("apps" | "extensions", _) | ("", "Pod" | "ReplicationController" | "PodTemplate") => 10,
        ("batch", _) => 11,
        ("autoscaling" | "policy", _) => 12,
        ("networking.k8s.io", _) | ("gateway.networking.k8s.io", _) => 13,
        // A quota counts what is there: written first, it could refuse the rest.
        ("", "ResourceQuota") => 14,
        // Hooks and aggregated APIs, where nothing is held back.
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => LAST,
        _ => CUSTOM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_goes_first() {
        let order = |group: &str, kind: &str| order(&GroupKind::new(group, kind));
        let waves = [
            order("apiextensions.k8s.io", "CustomResourceDefinition"),
            order("", "Namespace"),
            order("storage.k8s.io", "StorageClass"),
            order("", "PersistentVolume"),
            order("", "PersistentVolumeClaim"),
            order("", "ServiceAccount"),
            order("", "Secret"),
            order("networking.k8s.io", "NetworkPolicy"),
            order("", "Service"),
            order("postgresql.cnpg.io", "Cluster"),
            order("apps", "StatefulSet"),
            order("batch", "CronJob"),
            order("autoscaling", "HorizontalPodAutoscaler"),
            order("networking.k8s.io", "Ingress"),
            order("", "ResourceQuota"),
            order("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ];
        assert!(waves.is_sorted_by(|a, b| a < b), "{waves:?}");
        assert_eq!(waves.last(), Some(&LAST));
    }
}
