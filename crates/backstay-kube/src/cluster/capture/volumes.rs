//! The volumes behind the claims of a capture: where their data is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use backstay_types::VolumeName;
use serde_json::Value;

use crate::folder::CapturedObject;

/// A volume that a captured claim is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVolume {
    /// Name of the PersistentVolume.
    pub name: String,
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub claim: String,
    /// `volumeMode: Block`: a device and not a folder.
    pub is_block: bool,
    /// The claim goes with another object, such as that of a pod's ephemeral volume: its end is no loss.
    pub is_owned: bool,
    /// Where the data is.
    pub source: VolumeSource,
}

/// Where the data of a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// On a node, by path: `hostPath` and `local` volumes, which are read in place.
    Node {
        /// The path there.
        path: PathBuf,
        /// The node, where the volume is tied to one.
        node: Option<String>,
    },
    /// Behind a driver: read through a snapshot, by a mover.
    Driver {
        /// Name of the CSI driver, or the kind of volume.
        driver: String,
    },
    /// No volume yet.
    Unbound,
    /// The claim has a volume, and the capture left it out.
    LeftOut,
}

const CLAIMS: &str = "_PersistentVolumeClaim";
const VOLUMES: &str = "_PersistentVolume";

/// The volumes of all claims among captured objects, in order of namespace and claim.
pub fn volumes_of(objects: &[CapturedObject]) -> Vec<FoundVolume> {
    let of_kind = |wanted: &'static str| {
        let kept = move |object: &&CapturedObject| object.key.components().nth(1) == Some(wanted.as_bytes());
        // What is in a bundle was JSON a moment ago.
        let parse = |object: &CapturedObject| serde_json::from_slice::<Value>(&object.bytes).ok();
        objects.iter().filter(kept).filter_map(parse)
    };
    let name = |object: &Value| text(object, "/metadata/name");
    let volumes: BTreeMap<String, Value> = of_kind(VOLUMES).map(|volume| (name(&volume), volume)).collect();
    let of_claim = |claim: Value| {
        let bound = text(&claim, "/spec/volumeName");
        let volume = volumes.get(&bound);
        let without = if bound.is_empty() { VolumeSource::Unbound } else { VolumeSource::LeftOut };
        FoundVolume {
            name: bound,
            namespace: text(&claim, "/metadata/namespace"),
            claim: name(&claim),
            is_block: text(&claim, "/spec/volumeMode") == "Block",
            is_owned: claim
                .pointer("/metadata/ownerReferences")
                .and_then(Value::as_array)
                .is_some_and(|owners| !owners.is_empty()),
            source: volume.map_or(without, source),
        }
    };
    of_kind(CLAIMS).map(of_claim).collect()
}

/// Names of the volumes that hold data, for the manifest: `NAMESPACE-CLAIM`. One that would not be a label, or that two
/// claims or one of `taken` would have, ends in a hash of both.
///
/// Both sides compute them, each from the objects alone.
pub fn volume_names<'v>(
    volumes: &'v [FoundVolume],
    taken: &BTreeSet<VolumeName>,
) -> Vec<(VolumeName, &'v FoundVolume)> {
    let with_data = || volumes.iter().filter(|volume| matches!(volume.source, VolumeSource::Node { .. }));
    let plain = |volume: &FoundVolume| format!("{}-{}", volume.namespace, volume.claim);
    let mut uses: BTreeMap<String, usize> = taken.iter().map(|name| (name.to_string(), 1)).collect();
    for volume in with_data() {
        *uses.entry(plain(volume)).or_default() += 1;
    }
    let name = |volume: &FoundVolume| {
        let plain = plain(volume);
        match plain.parse::<VolumeName>() {
            Ok(name) if uses.get(&plain) == Some(&1) => name,
            _ => hashed(volume, &plain),
        }
    };
    with_data().map(|volume| (name(volume), volume)).collect()
}

/// At most so much of the plain name is kept before a hash.
const PLAIN_CHARS_MAX: usize = 46;

fn hashed(volume: &FoundVolume, plain: &str) -> VolumeName {
    let hash = blake3::hash(format!("{}/{}", volume.namespace, volume.claim).as_bytes()).to_hex();
    let begin: String = plain.chars().take(PLAIN_CHARS_MAX).map(|c| if c == '.' { '-' } else { c }).collect();
    let hash: String = hash.chars().take(16).collect();
    format!("{}-{hash}", begin.trim_end_matches('-'))
        .parse()
        .expect("names of objects and a hash make a label")
}

fn source(volume: &Value) -> VolumeSource {
    let path = volume.pointer("/spec/hostPath/path").or_else(|| volume.pointer("/spec/local/path"));
    if let Some(path) = path.and_then(Value::as_str) {
        return VolumeSource::Node { path: PathBuf::from(path), node: node(volume) };
    }
    let csi = volume.pointer("/spec/csi/driver").and_then(Value::as_str);
    // The one field of the spec that says what the volume is, among those that every volume has.
    let other = || {
        let common = [
            "accessModes",
            "capacity",
            "claimRef",
            "mountOptions",
            "nodeAffinity",
            "persistentVolumeReclaimPolicy",
            "storageClassName",
            "volumeAttributesClassName",
            "volumeMode",
        ];
        let fields = volume.get("spec").and_then(Value::as_object);
        fields.into_iter().flatten().map(|(name, _)| name.as_str()).find(|name| !common.contains(name))
    };
    VolumeSource::Driver { driver: csi.or_else(other).unwrap_or("unknown").to_owned() }
}

/// The one node that a volume's affinity names.
fn node(volume: &Value) -> Option<String> {
    let terms = volume.pointer("/spec/nodeAffinity/required/nodeSelectorTerms")?.as_array()?;
    let expressions = terms.iter().filter_map(|term| term.get("matchExpressions")?.as_array()).flatten();
    let is_host = |expression: &&Value| text(expression, "/key") == "kubernetes.io/hostname";
    let values = expressions.filter(is_host).filter_map(|expression| expression.get("values")?.as_array());
    let names: Vec<&str> = values.flatten().filter_map(Value::as_str).collect();
    <[&str; 1]>::try_from(names).ok().map(|[name]| name.to_owned())
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Scopes;
    use crate::{ObjectId, canonical};

    fn captured(object: Value) -> CapturedObject {
        let key = ObjectId::of(&object).unwrap().key(&Scopes::default()).unwrap();
        CapturedObject { key, bytes: canonical::to_bytes(&object) }
    }

    #[test]
    fn the_data_of_every_claim_is_told() {
        let claim = |name: &str, volume: Option<&str>| {
            captured(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": "shop"}, "spec": {"volumeName": volume}}))
        };
        let volume = |name: &str, spec: Value| {
            captured(
                json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}),
            )
        };
        let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}});
        let found = volumes_of(&[
            volume("p1", json!({"hostPath": {"path": "/data/1"}, "capacity": {}})),
            volume("p2", json!({"local": {"path": "/data/2"}, "nodeAffinity": affinity})),
            volume("p3", json!({"csi": {"driver": "ebs.csi.aws.com"}})),
            volume("p4", json!({"nfs": {"server": "s"}, "accessModes": []})),
            claim("a", Some("p1")),
            claim("b", Some("p2")),
            claim("c", Some("p3")),
            claim("d", Some("p4")),
            claim("e", None),
            claim("f", Some("p9")),
        ]);
        let sources: Vec<_> = found.into_iter().map(|volume| (volume.claim, volume.source)).collect();
        let node = |path: &str, node: Option<&str>| VolumeSource::Node {
            path: path.into(),
            node: node.map(str::to_owned),
        };
        let driver = |driver: &str| VolumeSource::Driver { driver: driver.to_owned() };
        let expected = [
            ("a", node("/data/1", None)),
            ("b", node("/data/2", Some("n1"))),
            ("c", driver("ebs.csi.aws.com")),
            ("d", driver("nfs")),
            ("e", VolumeSource::Unbound),
            ("f", VolumeSource::LeftOut),
        ];
        assert_eq!(sources, expected.map(|(claim, source)| (claim.to_owned(), source)));
    }

    #[test]
    fn names_are_labels_and_differ() {
        let volume = |namespace: &str, claim: &str, source| FoundVolume {
            name: String::new(),
            namespace: namespace.to_owned(),
            claim: claim.to_owned(),
            is_block: false,
            is_owned: false,
            source,
        };
        let on_node = |namespace: &str, claim: &str| {
            volume(namespace, claim, VolumeSource::Node { path: "/data".into(), node: None })
        };
        let long = "x".repeat(200);
        let volumes = [
            on_node("shop", "data"),
            volume("shop", "unbound", VolumeSource::Unbound),
            on_node("a", "b-c"),
            on_node("a-b", "c"),
            on_node("shop", "www.example.org"),
            on_node("shop", &long),
            on_node("shop", "taken"),
        ];
        let taken = BTreeSet::from(["shop-taken".parse().unwrap()]);
        let names: Vec<_> =
            volume_names(&volumes, &taken).into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names[0], "shop-data");
        assert_eq!(names.len(), 6);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 6, "{names:?}");
        for (name, begin) in
            names.iter().skip(1).zip(["a-b-c-", "a-b-c-", "shop-www-example-org-", "shop-xxx", "shop-taken-"])
        {
            assert!(name.starts_with(begin), "{name}");
        }
    }
}
