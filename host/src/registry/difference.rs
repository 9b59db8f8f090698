//! What differs between two bundles.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::{BundleManifest, TransformerEntry};
use crate::domain::ColumnSpec;

/// Something of a bundle that another has otherwise, or not at all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// What it belongs to: `framework`, `model`, `dataset`, `parameter`, `metric`, `confusion`, `preprocess`,
    /// `postprocess`, `inputs`, `features`, `outputs` or `reference`.
    pub part: &'static str,
    /// Which of it.
    pub name: String,
    /// The first bundle's; none if it has none.
    pub a: Option<Value>,
    /// The second bundle's; none if it has none.
    pub b: Option<Value>,
    /// How much a metric of the second is above that of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
}

/// What differs between two bundles, part by part; nothing if they have the same digest, and only then.
pub fn differences(a: &BundleManifest, b: &BundleManifest) -> Vec<Difference> {
    let mut found = Differences::default();
    let framework = |manifest: &BundleManifest| {
        let model = &manifest.model;
        BTreeMap::from([
            ("name", json!(model.framework)),
            ("version", json!(model.framework_version)),
            ("file_name", json!(model.file_name)),
        ])
    };
    found.of_maps("framework", &framework(a), &framework(b));
    found.add("model", "digest", Some(json!(a.model.blob.digest)), Some(json!(b.model.blob.digest)));
    let dataset = |manifest: &BundleManifest| {
        manifest.dataset.as_ref().map(|dataset| json!(format!("{}@{}", dataset.name, dataset.version)))
    };
    found.add("dataset", "version", dataset(a), dataset(b));
    found.of_maps("parameter", &a.parameters, &b.parameters);
    found.metrics(&a.metrics, &b.metrics);
    found.add("confusion", "counts", Some(json!(a.confusion)), Some(json!(b.confusion)));
    found.transformers("preprocess", &a.preprocess, &b.preprocess);
    found.transformers("postprocess", &a.postprocess, &b.postprocess);
    found.columns("inputs", &a.signature.inputs, &b.signature.inputs);
    found.columns("features", &a.signature.features, &b.signature.features);
    found.columns("outputs", &a.signature.outputs, &b.signature.outputs);
    let reference = |manifest: &BundleManifest| manifest.reference.as_ref().map(|blob| json!(blob.digest));
    found.add("reference", "digest", reference(a), reference(b));
    let sample = |manifest: &BundleManifest| manifest.sample.as_ref().map(|blob| json!(blob.digest));
    found.add("sample", "digest", sample(a), sample(b));
    found.0
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, part: &'static str, name: &str, a: Option<Value>, b: Option<Value>) {
        if a != b {
            self.0.push(Difference { part, name: name.to_owned(), a, b, delta: None });
        }
    }

    fn of_maps<K: AsRef<str> + Ord, V: Serialize>(
        &mut self,
        part: &'static str,
        a: &BTreeMap<K, V>,
        b: &BTreeMap<K, V>,
    ) {
        let names: BTreeSet<&K> = a.keys().chain(b.keys()).collect();
        for name in names {
            let value = |map: &BTreeMap<K, V>| map.get(name).map(|value| json!(value));
            self.add(part, name.as_ref(), value(a), value(b));
        }
    }

    fn metrics(&mut self, a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let (before, after) = (a.get(name).copied(), b.get(name).copied());
            // As bits, since NaN is unlike itself.
            if before.map(f64::to_bits) != after.map(f64::to_bits) {
                let number = |value: Option<f64>| value.map(|value| json!(value));
                self.0.push(Difference {
                    part: "metric",
                    name: name.clone(),
                    a: number(before),
                    b: number(after),
                    delta: before.zip(after).map(|(before, after)| after - before),
                });
            }
        }
    }

    /// Transformers are the same one where they have the same name, the first with the first of it, and so on.
    fn transformers(&mut self, part: &'static str, a: &[TransformerEntry], b: &[TransformerEntry]) {
        let fields = |entry: &TransformerEntry| {
            BTreeMap::from([
                ("version", json!(entry.version)),
                ("component", json!(entry.component.digest)),
                ("config", entry.config.clone()),
                ("state", json!(entry.state.as_ref().map(|state| state.digest))),
            ])
        };
        let (a, b) = (keyed(a, |entry| &entry.name), keyed(b, |entry| &entry.name));
        for (key, entry) in &a {
            match b.iter().find(|(other, _)| other == key) {
                Some((_, other)) => {
                    let (before, after) = (fields(entry), fields(other));
                    for (name, value) in &before {
                        let after = after.get(name).cloned();
                        self.add(part, &format!("{key}.{name}"), Some(value.clone()), after);
                    }
                }
                None => self.add(part, key, Some(json!(entry.component.digest)), None),
            }
        }
        for (key, entry) in b.iter().filter(|(key, _)| !a.iter().any(|(other, _)| other == key)) {
            self.add(part, key, None, Some(json!(entry.component.digest)));
        }
        self.order(part, &a, &b);
    }

    fn columns(&mut self, part: &'static str, a: &[ColumnSpec], b: &[ColumnSpec]) {
        let (a, b) = (keyed(a, |spec| &spec.name), keyed(b, |spec| &spec.name));
        for (key, spec) in &a {
            let other = b.iter().find(|(other, _)| other == key).map(|(_, spec)| json!(column_text(spec)));
            self.add(part, key, Some(json!(column_text(spec))), other);
        }
        for (key, spec) in b.iter().filter(|(key, _)| !a.iter().any(|(other, _)| other == key)) {
            self.add(part, key, None, Some(json!(column_text(spec))));
        }
        self.order(part, &a, &b);
    }

    /// What both have may stand in another order.
    fn order<T>(&mut self, part: &'static str, a: &[(String, T)], b: &[(String, T)]) {
        let common = |these: &[(String, T)], others: &[(String, T)]| -> Vec<String> {
            let is_common = |key: &String| others.iter().any(|(other, _)| other == key);
            these.iter().map(|(key, _)| key).filter(|key| is_common(key)).cloned().collect()
        };
        self.add(part, "order", Some(json!(common(a, b))), Some(json!(common(b, a))));
    }
}

/// Entries by name; of those that share one, all but the first have a number.
fn keyed<T>(entries: &[T], name: impl Fn(&T) -> &String) -> Vec<(String, &T)> {
    let key = |(place, entry): (usize, &T)| {
        let same = entries.iter().take(place).filter(|other| name(other) == name(entry)).count();
        match same {
            0 => name(entry).clone(),
            _ => format!("{}#{}", name(entry), same + 1),
        }
    };
    entries.iter().enumerate().map(|(place, entry)| (key((place, entry)), entry)).collect()
}

fn column_text(spec: &ColumnSpec) -> String {
    let sizes: String = spec.shape.iter().map(|size| format!(" × {size}")).collect();
    let nullable = if spec.nullable { " or missing" } else { "" };
    let names = match spec.element_names.as_slice() {
        [] => String::new(),
        names => format!(" of {names:?}"),
    };
    format!("{}{sizes}{nullable}{names}", spec.dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DataType, Digest, Signature};
    use crate::registry::{BlobRef, DatasetRef, MEDIA_TYPE, ModelEntry};

    fn blob(text: &str) -> BlobRef {
        BlobRef { digest: Digest::of(text.as_bytes()), size: text.len() as u64 }
    }

    fn transformer(name: &str, component: &str) -> TransformerEntry {
        let version = "0.1.0".to_owned();
        TransformerEntry {
            name: name.to_owned(),
            version,
            component: blob(component),
            config: json!({}),
            state: None,
        }
    }

    fn column(name: &str) -> ColumnSpec {
        ColumnSpec {
            name: name.to_owned(),
            dtype: DataType::Fp32,
            shape: vec![2],
            nullable: false,
            element_names: Vec::new(),
        }
    }

    fn manifest() -> BundleManifest {
        BundleManifest {
            media_type: MEDIA_TYPE.to_owned(),
            model: ModelEntry {
                framework: "xgboost".to_owned(),
                framework_version: "3.2.0".to_owned(),
                file_name: "model.ubj".to_owned(),
                blob: blob("model"),
                output: None,
            },
            preprocess: vec![transformer("scale", "1"), transformer("scale", "2"), transformer("drop", "3")],
            postprocess: Vec::new(),
            signature: Signature {
                inputs: vec![column("x"), column("y")],
                features: vec![column("x")],
                outputs: vec![column("scores")],
            },
            dataset: Some(DatasetRef { name: "d".parse().unwrap(), version: Digest::of(b"d") }),
            parameters: BTreeMap::from([("eta".to_owned(), "0.3".to_owned())]),
            metrics: BTreeMap::from([("accuracy".to_owned(), 0.5), ("odd".to_owned(), f64::NAN)]),
            confusion: vec![vec![1, 0], vec![0, 1]],
            reference: Some(blob("reference")),
            sample: Some(blob("sample")),
        }
    }

    fn names(found: &[Difference]) -> Vec<String> {
        found.iter().map(|difference| format!("{} {}", difference.part, difference.name)).collect()
    }

    #[test]
    fn a_bundle_is_like_itself() {
        assert_eq!(differences(&manifest(), &manifest()), []);
    }

    #[test]
    fn every_part_is_compared() {
        let mut other = manifest();
        other.model.framework_version = "2.0.0".to_owned();
        other.model.blob = blob("other");
        other.dataset = None;
        other.reference = None;
        other.sample = None;
        other.parameters = BTreeMap::from([("max_depth".to_owned(), "4".to_owned())]);
        other.metrics.insert("accuracy".to_owned(), 0.75);
        other.confusion = Vec::new();
        other.preprocess = vec![transformer("drop", "3"), transformer("scale", "1"), transformer("new", "4")];
        other.postprocess = vec![TransformerEntry { state: Some(blob("s")), ..transformer("scale", "1") }];
        other.signature.inputs.reverse();
        other.signature.features = vec![ColumnSpec { nullable: true, ..column("x") }];
        let found = differences(&manifest(), &other);
        assert_eq!(
            names(&found),
            [
                "framework version",
                "model digest",
                "dataset version",
                "parameter eta",
                "parameter max_depth",
                "metric accuracy",
                "confusion counts",
                "preprocess scale#2",
                "preprocess new",
                "preprocess order",
                "postprocess scale",
                "inputs order",
                "features x",
                "reference digest",
                "sample digest",
            ]
        );
        let metric = found.iter().find(|difference| difference.part == "metric").unwrap();
        assert_eq!(metric.delta, Some(0.25));
        let feature = found.iter().find(|difference| difference.part == "features").unwrap();
        assert_eq!(feature.b, Some(json!("FP32 × 2 or missing")));
        let mut named = manifest();
        named.signature.features =
            vec![ColumnSpec { element_names: vec!["a, b".to_owned(), "c".to_owned()], ..column("x") }];
        let found = differences(&manifest(), &named);
        assert_eq!(found.first().unwrap().b, Some(json!("FP32 × 2 of [\"a, b\", \"c\"]")));
    }

    #[test]
    fn transformers_differ_by_version_component_config_and_state() {
        let mut other = manifest();
        if let Some(entry) = other.preprocess.get_mut(1) {
            *entry = TransformerEntry {
                version: "0.2.0".to_owned(),
                config: json!({ "by": 2 }),
                state: Some(blob("s")),
                ..transformer("scale", "9")
            };
        }
        let found = names(&differences(&manifest(), &other));
        let parts =
            ["component", "config", "state", "version"].map(|part| format!("preprocess scale#2.{part}"));
        assert_eq!(found, parts);
    }

    #[test]
    fn manifests_without_dataset_and_reference_are_read_and_old_ones_stay_what_they_were() {
        let old = manifest();
        let text = String::from_utf8(old.to_bytes().unwrap()).unwrap();
        assert!(text.contains("\"dataset\": {") && text.contains("\"reference\": {"), "{text}");
        let imported =
            BundleManifest { dataset: None, reference: None, sample: None, metrics: BTreeMap::new(), ..old };
        let bytes = imported.to_bytes().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(!text.contains("dataset") && !text.contains("reference"), "{text}");
        assert_eq!(BundleManifest::from_bytes(&bytes, "test").unwrap(), imported);
        assert_eq!(imported.blobs().count(), 4);
    }
}
