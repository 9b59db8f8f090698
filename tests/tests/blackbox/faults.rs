//! What comes from outside and is bad: names, bodies, disks, buckets and databases. Each is answered with the API's own
//! error, nothing half-written stays, and the server goes on.

mod bodies;
mod buckets;
mod disks;
mod files;
mod names;
mod processes;

use host_tests::{Answer, Server};
use serde_json::{Value, json};

use crate::tracking::{api, assert_refused};

fn refused(answer: &Answer) {
    assert_refused(answer, 400, "INVALID_PARAMETER_VALUE");
}

fn run(server: &Server, run_id: &str) -> Value {
    server.get(&api(&format!("runs/get?run_id={run_id}"))).json()["run"].clone()
}

/// Steps of a metric that are kept, in order.
fn steps(server: &Server, run_id: &str, key: &str) -> Vec<i64> {
    let mut steps = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!("metrics/get-history?run_id={run_id}&metric_key={key}&page_token={token}");
        let page = server.get(&api(&path)).json();
        let points = page["metrics"].as_array().unwrap().iter();
        steps.extend(points.map(|point| point["step"].as_i64().unwrap()));
        match page["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => return steps,
        }
    }
}

/// A batch that is half kept if only one of its points is.
fn pair_of_points(run_id: &str, key: &str, number: i64) -> Value {
    let point = |step: i64| json!({ "key": key, "value": 1, "timestamp": 1, "step": step });
    json!({ "run_id": run_id, "metrics": [point(number * 2), point(number * 2 + 1)] })
}
