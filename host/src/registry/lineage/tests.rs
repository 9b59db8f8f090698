use std::sync::Arc;

use super::*;
use crate::data::NewDataset;
use crate::store::{Database, DatabaseUrl, Store};
use crate::track::{BUNDLE_TAG, DatasetInput, InputDataset, NewRun, PARENT_TAG, PLUGIN_TAG, Pair, Tracker};

struct Place {
    folder: tempfile::TempDir,
    registry: Registry,
    catalog: Catalog,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        let database = Database::open(&DatabaseUrl::default(), store.folder()).await.unwrap();
        let catalog = Catalog::new(database.clone(), store.clone());
        Self { folder, registry: Registry::new(Tracker::new(database, store)), catalog }
    }

    /// Adds a file to the dataset `d`, and to what the parent has.
    async fn add(&self, file: &str, parent: Option<&str>) -> Digest {
        let path = self.folder.path().join(file);
        std::fs::write(&path, file).unwrap();
        let new = NewDataset {
            name: "d".parse().unwrap(),
            paths: vec![path],
            parent: parent.map(str::to_owned),
            remove: Vec::new(),
            rows: false,
            reread: false,
            now_ms: 1,
        };
        self.catalog.add(new, Arc::new(|_| {})).await.unwrap().dataset.version.digest
    }

    async fn run(&self, tags: &[(&str, String)], reads: Option<Digest>) -> String {
        let tags = tags.iter().map(|(key, value)| Pair { key: (*key).to_owned(), value: value.clone() });
        let new = NewRun { tags: tags.collect(), ..NewRun::default() };
        let run_id = self.registry.tracker().create_run(new).await.unwrap().info.run_id;
        if let Some(digest) = reads {
            let dataset = InputDataset {
                name: "d".to_owned(),
                digest: digest.short(),
                source_type: "host".to_owned(),
                source: format!("d@{digest}"),
                schema: None,
                profile: None,
            };
            let inputs = vec![DatasetInput { tags: Vec::new(), dataset }];
            self.registry.tracker().log_inputs(run_id.clone(), inputs, Vec::new()).await.unwrap();
        }
        run_id
    }

    async fn lineage(&self, text: &str) -> Result<Lineage, RegistryError> {
        self.registry.lineage(&self.catalog, &text.parse().unwrap()).await
    }
}

/// What is next to the first node, in words.
fn next(lineage: &Lineage, direction: LineageDirection) -> Vec<String> {
    lineage.next(0, direction).into_iter().map(|place| words(&lineage.nodes[place])).collect()
}

fn words(node: &LineageNode) -> String {
    match node {
        LineageNode::Dataset { version, .. } => format!("dataset {}", version.unwrap_or_default()),
        LineageNode::Component { name, .. } => format!("component {name}"),
        LineageNode::Run { run_id, .. } => format!("run {run_id}"),
        LineageNode::Bundle { .. } => "bundle".to_owned(),
        LineageNode::Model { name, version, .. } => format!("model {name}@{version}"),
    }
}

#[tokio::test]
async fn leads_both_ways_from_anything() {
    let place = Place::new().await;
    place.add("a", None).await;
    let second = place.add("b", Some("d@1")).await;
    let (component, bundle) = (Digest::of(b"component"), Digest::of(b"bundle"));
    let tags = [(BUNDLE_TAG, bundle.to_string()), ("host.plugin.scale", component.to_string())];
    let run = place.run(&tags, Some(second)).await;

    let lineage = place.lineage("d@1").await.unwrap();
    assert_eq!(next(&lineage, LineageDirection::Down), ["dataset 2"]);
    assert!(next(&lineage, LineageDirection::Up).is_empty());
    let all: Vec<String> = lineage.nodes.iter().map(words).collect();
    assert_eq!(
        all,
        ["dataset 1".to_owned(), "dataset 2".to_owned(), format!("run {run}"), "bundle".to_owned()]
    );
    assert!(!lineage.is_truncated);

    let lineage = place.lineage(&run[..6]).await.unwrap();
    assert_eq!(next(&lineage, LineageDirection::Up), ["dataset 2", "component scale"]);
    assert_eq!(next(&lineage, LineageDirection::Down), ["bundle"]);
    assert_eq!(place.lineage(&format!("run:{run}")).await.unwrap(), lineage);

    let lineage = place.lineage(&component.to_string()).await.unwrap();
    assert_eq!(words(&lineage.nodes[0]), format!("component {}", &tags[1].0[PLUGIN_TAG.len()..]));
    assert_eq!(next(&lineage, LineageDirection::Down), [format!("run {run}")]);
}

#[tokio::test]
async fn a_search_does_not_hide_its_trials() {
    let place = Place::new().await;
    let version = place.add("a", None).await;
    let bundle = (BUNDLE_TAG, Digest::of(b"bundle").to_string());
    let search = place.run(std::slice::from_ref(&bundle), Some(version)).await;
    let trial = place.run(&[bundle, (PARENT_TAG, search)], Some(version)).await;
    let lineage = place.lineage(&trial).await.unwrap();
    let made = lineage.next(0, LineageDirection::Down)[0];
    let mut walk = Walk::new(&place.registry, &place.catalog, NODES_MAX);
    walk.place(lineage.nodes[made].clone());
    walk.all(LineageDirection::Up).await.unwrap();
    let lineage = walk.finish();
    assert_eq!(next(&lineage, LineageDirection::Up), [format!("run {trial}")]);
}

#[tokio::test]
async fn what_two_ways_lead_to_stands_there_once() {
    let place = Place::new().await;
    let first = place.add("1", None).await;
    for file in ["2", "3", "4"] {
        place.add(file, Some("d")).await;
    }
    let lineage = place.lineage("d@1").await.unwrap();
    assert_eq!(lineage.nodes.len(), 4);
    // Whatever is asked for, and however often it occurs, the limit holds.
    let mut walk = Walk::new(&place.registry, &place.catalog, 3);
    walk.place(LineageNode::Dataset { name: None, version: None, digest: first });
    walk.all(LineageDirection::Down).await.unwrap();
    let lineage = walk.finish();
    assert!(lineage.is_truncated && lineage.nodes.len() == 3);
    assert!(lineage.edges.iter().all(|edge| edge.from < 3 && edge.to < 3));
}

#[tokio::test]
async fn what_is_nowhere_is_told() {
    let place = Place::new().await;
    place.add("a", None).await;
    let nothing = Digest::of(b"nothing").to_string();
    for (text, told) in [
        ("nothing", "nothing is called `nothing`: expected a dataset"),
        ("run:abcd", "nothing is called `abcd`"),
        ("data:nothing", "there is no dataset `nothing`"),
        ("model:nothing", "there is no model `nothing`"),
        ("d@9", "dataset `d` has no version or tag `9`: its newest is 1"),
        ("", "nothing is called ``"),
        (&nothing, "nothing is called `sha256:"),
    ] {
        let error = place.lineage(text).await.unwrap_err().to_string();
        assert!(error.starts_with(told), "{text}: {error}");
    }
}
