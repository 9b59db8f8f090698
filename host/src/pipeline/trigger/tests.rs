//! Starts as rows of the database: of several servers that look, one starts.

use std::sync::Arc;

use super::due::{Decision, decide};
use super::enabled::{Claim, Triggers, WatchedPipeline};
use crate::data::{Alerts, Catalog, NewAlert, NewDataset};
use crate::domain::Digest;
use crate::pipeline::record::{NewPipelineRecord, RecordError, Records};
use crate::pipeline::start::prepare_run;
use crate::pipeline::{PipelineFile, PipelineRecord, PipelineStatus};
use crate::plugin::Verdict;
use crate::store::{Database, DatabaseUrl, Store};
use crate::track::{Lifecycle, RunSearch, Tracker};

const ENABLED_AT: i64 = 1_000_000;

/// A server's view of a state folder.
struct Server {
    triggers: Triggers,
    records: Records,
    tracker: Tracker,
}

impl Server {
    async fn open(folder: &std::path::Path) -> Self {
        let database = Database::open(&DatabaseUrl::default(), folder).await.unwrap();
        let tracker = Tracker::new(database.clone(), Store::open(folder).unwrap());
        Self { triggers: Triggers::new(database.clone()), records: Records::new(database), tracker }
    }

    async fn enable(&self, name: &str, triggers: &str) {
        let text = format!(
            "version: 1\nname: {name}\ntriggers: [{triggers}]\nsteps: {{ a: {{ uses: command, with: {{ run: x }} }} }}\n"
        );
        let params = vec![];
        let file = PipelineFile { name: "pipeline.yaml".to_owned(), text, folder: "/".into(), params };
        self.triggers.enable(&file, &file.plan().unwrap(), ENABLED_AT).await.unwrap();
    }

    async fn watch(&self) -> WatchedPipeline {
        let mut watched = self.triggers.watch().await.unwrap();
        let mut pipeline = watched.remove(0);
        for one in pipeline.triggers.iter_mut().filter(|one| one.newest.is_some()) {
            one.event = self.triggers.event(&pipeline.name, &one.trigger, one.seen).await.unwrap();
        }
        pipeline
    }

    fn claim(&self, pipeline: &WatchedPipeline, now_ms: i64) -> Claim {
        match decide(&pipeline.name, &pipeline.triggers, now_ms) {
            Decision::Start(start) => {
                Claim { pipeline: pipeline.key, starts: pipeline.starts, start, now_ms }
            }
            other => panic!("{other:?}"),
        }
    }

    async fn start(&self, claim: Claim) -> Option<PipelineRecord> {
        let file = self.triggers.file(claim.pipeline).await.unwrap()?;
        let (triggered_by, pipelines) = (claim.start.cause(), claim.start.pipelines.clone());
        let new = NewPipelineRecord { name: file.plan().unwrap().name, file, triggered_by, pipelines };
        let run = prepare_run(&self.tracker, &new).await.unwrap();
        self.triggers.start(claim, run, new).await.unwrap()
    }

    async fn add(&self, dataset: &str, content: &str, pipelines: &str) {
        let catalog = Catalog::new(self.tracker.database().clone(), self.tracker.store().clone());
        let path = self.tracker.store().folder().join("content.txt");
        std::fs::write(&path, content).unwrap();
        let new = NewDataset {
            name: dataset.parse().unwrap(),
            paths: vec![path],
            parent: None,
            remove: Vec::new(),
            rows: false,
            reread: true,
            now_ms: 1,
        };
        catalog.for_pipelines(pipelines.to_owned()).add(new, Arc::new(|_| {})).await.unwrap();
    }

    async fn alert(&self, endpoint: &str, pipelines: &str) {
        let alert = NewAlert {
            endpoint: endpoint.parse().unwrap(),
            bundle: Digest::of(b""),
            detector: "psi".to_owned(),
            detector_digest: Digest::of(b""),
            verdict: Verdict::Drifted,
            drifted: 1,
            scores: 1,
            now_ms: 1,
        };
        let alerts = Alerts::new(self.tracker.database().clone()).for_pipelines(pipelines.to_owned());
        alerts.record(alert).await.unwrap();
    }
}

#[tokio::test]
async fn of_servers_that_decide_the_same_one_starts() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Server::open(folder.path()).await, Server::open(folder.path()).await);
    one.enable("p", "{ schedule: '* * * * *' }").await;
    let now_ms = ENABLED_AT + 60_000;
    let (of_one, of_two) = (one.watch().await, two.watch().await);
    let started = one.start(one.claim(&of_one, now_ms)).await.unwrap();
    assert_eq!((started.triggered_by.as_str(), started.pipelines.as_str()), ("schedule * * * * *", "p"));
    assert_eq!(two.start(two.claim(&of_two, now_ms)).await, None);
    assert_eq!(one.records.list(None, 10).await.unwrap().len(), 1);
    // Nothing is left of the attempt.
    let experiment_ids = vec![one.tracker.experiment_by_name("p").await.unwrap().experiment_id];
    let search = RunSearch { experiment_ids, ..RunSearch::default() };
    assert_eq!(one.tracker.search_runs(search).await.unwrap().found.len(), 1);
    let seen = two.watch().await;
    assert_eq!(decide("p", &seen.triggers, now_ms), Decision::Wait);
    assert!(matches!(decide("p", &seen.triggers, now_ms + 60_000), Decision::Start(_)));
    let listed = &two.triggers.list(now_ms).await.unwrap()[0];
    assert_eq!((listed.run_id.as_ref(), listed.fired_at), (Some(&started.run_id), Some(now_ms)));
    assert_eq!(listed.status.as_deref(), Some("running"));
    one.records.end(&started, PipelineStatus::Finished).await.unwrap();
    assert_eq!(two.triggers.list(now_ms).await.unwrap()[0].status.as_deref(), Some("finished"));
}

#[tokio::test]
async fn one_that_is_disabled_or_enabled_anew_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::open(folder.path()).await;
    for again in [false, true] {
        server.enable("p", "{ schedule: '* * * * *' }").await;
        let watched = server.watch().await;
        let claim = server.claim(&watched, ENABLED_AT + 60_000);
        match again {
            true => server.enable("p", "{ schedule: '* * * * *' }").await,
            false => server.triggers.disable("p").await.unwrap(),
        }
        assert_eq!(server.start(claim.clone()).await, None);
        server.triggers.refuse(claim, "no".to_owned()).await.unwrap();
    }
    assert_eq!(server.records.list(None, 10).await.unwrap(), []);
    let listed = &server.triggers.list(ENABLED_AT).await.unwrap()[0];
    assert_eq!((listed.problem.as_ref(), listed.next_at), (None, Some(ENABLED_AT + 20_000)));
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_and_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::open(folder.path()).await;
    server.enable("p", "{ schedule: '* * * * *' }").await;
    let experiment_id = server.tracker.ensure_experiment("p").await.unwrap();
    server.tracker.set_experiment_lifecycle(&experiment_id, Lifecycle::Deleted).await.unwrap();
    let claim = server.claim(&server.watch().await, ENABLED_AT + 60_000);
    let file = server.triggers.file(claim.pipeline).await.unwrap().unwrap();
    let (name, pipelines) = (file.plan().unwrap().name, "p".to_owned());
    let new = NewPipelineRecord { name, file, triggered_by: claim.start.cause(), pipelines };
    let run = prepare_run(&server.tracker, &new).await.unwrap();
    let error = server.triggers.start(claim.clone(), run, new).await.unwrap_err();
    assert!(matches!(error, RecordError::Track(_)), "{error}");
    assert_eq!(server.records.list(None, 10).await.unwrap(), []);
    assert!(matches!(decide("p", &server.watch().await.triggers, ENABLED_AT + 60_000), Decision::Start(_)));
    server.triggers.refuse(claim, error.to_string()).await.unwrap();
    assert_eq!(decide("p", &server.watch().await.triggers, ENABLED_AT + 60_000), Decision::Wait);
    let listed = &server.triggers.list(ENABLED_AT).await.unwrap()[0];
    assert_eq!((&listed.problem, &listed.run_id), (&Some(error.to_string()), &None));
}

#[tokio::test]
async fn what_was_there_and_what_it_led_to_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::open(folder.path()).await;
    server.add("d", "before", "").await;
    server.alert("e", "").await;
    server.enable("p_1", "{ dataset: d }, { drift: e }").await;
    let decided = async || {
        let watched = server.watch().await;
        decide(&watched.name, &watched.triggers, ENABLED_AT)
    };
    assert_eq!(decided().await, Decision::Wait);
    // Others are not meant, and a name is not a pattern.
    server.add("other", "x", "").await;
    server.alert("other", "").await;
    assert_eq!(decided().await, Decision::Wait);
    server.add("d", "own", "x p_1 y").await;
    server.alert("e", "p_1").await;
    let Decision::Pass(looks) = decided().await else { panic!() };
    assert_eq!(looks.len(), 2);
    server.triggers.pass(server.watch().await.key, looks).await.unwrap();
    assert_eq!(decided().await, Decision::Wait);
    server.add("d", "of others", "pX1").await;
    server.add("d", "own again", "p_1").await;
    server.alert("e", "q").await;
    let Decision::Start(start) = decided().await else { panic!() };
    assert_eq!(start.pipelines, "pX1 q p_1");
    let digest = server.triggers.event("p_1", &server.watch().await.triggers[0].trigger, 0).await.unwrap();
    assert_eq!(start.cause(), format!("{}, drift e", digest.unwrap().cause));
    assert!(start.cause().starts_with("dataset d@sha256:"));
    let watched = server.watch().await;
    server.start(server.claim(&watched, ENABLED_AT)).await.unwrap();
    assert_eq!(decided().await, Decision::Wait);
}
