use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::graph::Graph;
use super::{Deployment, Endpoint, WindowError};
use crate::domain::Name;

/// Endpoints that clients have unloaded and that are still told of. Of more, those that were unloaded first are forgotten.
const UNLOADED_MAX: usize = 1_000;

/// Longest reason that is told of an endpoint that has failed.
const REASON_MAX_CHARS: usize = 500;

/// The endpoints of a server, by name. They come, go and change while requests are answered.
#[derive(Default)]
pub struct Endpoints {
    known: RwLock<Known>,
    is_stopping: AtomicBool,
}

#[derive(Default)]
struct Known {
    by_name: BTreeMap<String, Arc<Endpoint>>,
    /// The one that was unloaded last at the end.
    unloaded: VecDeque<UnloadedEndpoint>,
    /// Why endpoints are not what they should be, by name; no more than there should be.
    failed: BTreeMap<Name, String>,
    /// Why the endpoint file is not followed.
    file_failed: Option<String>,
}

/// An endpoint that was there until a client unloaded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnloadedEndpoint {
    pub(super) name: Name,
    /// The numbers of the versions that were loaded.
    pub(super) versions: Vec<String>,
}

impl Endpoints {
    /// The endpoint of a name.
    pub fn get(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.read().by_name.get(name).map(Arc::clone)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.read().by_name.values().map(Arc::clone).collect()
    }

    /// Tells whoever asks whether the server is ready that it is not any more; requests are still answered.
    pub fn note_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Why the server is not ready to be sent requests, if it is not.
    pub(super) fn not_ready(&self) -> Option<&'static str> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Some("the server is stopping");
        }
        self.read().by_name.is_empty().then_some("no endpoint is loaded")
    }

    /// All of them, and those that clients have unloaded.
    pub(super) fn all_and_unloaded(&self) -> (Vec<Arc<Endpoint>>, Vec<UnloadedEndpoint>) {
        let known = self.read();
        let is_gone = |unloaded: &&UnloadedEndpoint| !known.by_name.contains_key(unloaded.name.as_str());
        let unloaded = known.unloaded.iter().filter(is_gone).cloned().collect();
        (known.by_name.values().map(Arc::clone).collect(), unloaded)
    }

    /// Adds one, in place of what had its name.
    pub fn insert(&self, endpoint: Endpoint) {
        let mut known = self.write();
        known.unloaded.retain(|unloaded| unloaded.name != *endpoint.name());
        known.by_name.insert(endpoint.name().to_string(), Arc::new(endpoint));
    }

    /// Takes note that a client wants an endpoint to be gone, if there is one. It is told of as unloaded once it is removed.
    pub fn note_unload(&self, name: &Name) {
        let mut known = self.write();
        let Some(endpoint) = known.by_name.get(name.as_str()) else { return };
        let versions = endpoint.routing().numbers();
        known.unloaded.retain(|unloaded| unloaded.name != *name);
        if known.unloaded.len() == UNLOADED_MAX {
            known.unloaded.pop_front();
        }
        known.unloaded.push_back(UnloadedEndpoint { name: name.clone(), versions });
    }

    /// Forgets endpoints that were unloaded and of which nobody could load one again.
    pub fn retain_unloaded(&self, is_wanted: impl Fn(&Name) -> bool) {
        self.write().unloaded.retain(|unloaded| is_wanted(&unloaded.name));
    }

    /// Takes note that an endpoint is not what it should be, and why; it may still answer as before, or not be there.
    pub(super) fn note_failure(&self, name: &Name, reason: &str) {
        let reason = reason.chars().take(REASON_MAX_CHARS).collect();
        self.write().failed.insert(name.clone(), reason);
    }

    /// Takes note that an endpoint is what it should be, or that nobody wants it any more.
    pub fn clear_failure(&self, name: &Name) {
        // Nearly always there is none, and requests read beside this.
        if self.read().failed.contains_key(name) {
            self.write().failed.remove(name);
        }
    }

    /// Forgets the failures of endpoints that nobody wants any more.
    pub(super) fn retain_failures(&self, is_wanted: impl Fn(&Name) -> bool) {
        if self.read().failed.keys().any(|name| !is_wanted(name)) {
            self.write().failed.retain(|name, _| is_wanted(name));
        }
    }

    /// Takes note that the endpoint file cannot be followed, and why.
    pub fn note_file_failure(&self, reason: &str) {
        self.write().file_failed = Some(reason.chars().take(REASON_MAX_CHARS).collect());
    }

    /// Takes note that the endpoint file is followed; tells whether it was not before.
    pub fn clear_file_failure(&self) -> bool {
        self.write().file_failed.take().is_some()
    }

    /// Why the endpoint file is not followed, if there is one that is not.
    pub(super) fn file_failure(&self) -> Option<String> {
        self.read().file_failed.clone()
    }

    /// Those that are not what they should be, and why.
    pub(super) fn failures(&self) -> Vec<(Name, String)> {
        self.read().failed.iter().map(|(name, reason)| (name.clone(), reason.clone())).collect()
    }

    /// Why the last attempt to make an endpoint what it should be has failed, if it has.
    pub fn failure(&self, name: &Name) -> Option<String> {
        self.read().failed.get(name).cloned()
    }

    /// Whether the last attempt to make an endpoint of this name what it should be has failed.
    pub(super) fn has_failed(&self, name: &str) -> bool {
        name.parse().is_ok_and(|name: Name| self.read().failed.contains_key(&name))
    }

    /// Removes those that are not to be kept; requests that they have begun end well.
    pub fn retain(&self, keep: impl Fn(&Endpoint) -> bool) {
        self.write().by_name.retain(|_, endpoint| keep(endpoint));
    }

    /// Writes what the windows of all endpoints have captured; tells the last failure, after all were tried.
    pub fn flush_windows(&self) -> Result<(), WindowError> {
        let all = self.all();
        let loaded = all
            .iter()
            .flat_map(|endpoint| endpoint.routing().loaded().into_iter().cloned().collect::<Vec<_>>());
        let mut flushed = Ok(());
        for deployment in loaded.chain(self.held().into_iter().map(|(_, deployment)| deployment)) {
            if let Some(Err(error)) = deployment.window().map(|window| window.flush()) {
                flushed = Err(error);
            }
        }
        flushed
    }

    /// What endpoints that are made of others have of these which is no longer loaded for them, each once.
    pub(super) fn held(&self) -> Vec<(Name, Arc<Deployment>)> {
        let mut held: Vec<(Name, Arc<Deployment>)> = Vec::new();
        for endpoint in self.all() {
            let routing = endpoint.routing();
            let graph = routing.main().and_then(|main| main.graph());
            for (name, of_part) in graph.into_iter().flat_map(Graph::routings) {
                let now = self.get(name.as_str()).map(|part| part.routing());
                for deployment in of_part.loaded() {
                    let is_it = |known: &Arc<Deployment>| Arc::ptr_eq(known, deployment);
                    let is_loaded = now.iter().flat_map(|now| now.loaded()).any(is_it);
                    if !is_loaded && !held.iter().any(|(_, known)| is_it(known)) {
                        held.push((name.clone(), Arc::clone(deployment)));
                    }
                }
            }
        }
        held
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Routing;
    use super::super::deployment::tests::deployment;
    use super::*;

    fn endpoint(name: &str) -> Endpoint {
        let deployment = deployment(1, 1).1.named("m", 3);
        Endpoint::new(name.parse().unwrap(), Routing::to(Arc::new(deployment)))
    }

    fn unload(endpoints: &Endpoints, name: &str) {
        endpoints.note_unload(&name.parse().unwrap());
        endpoints.retain(|endpoint| endpoint.name().as_str() != name);
    }

    fn names_unloaded(endpoints: &Endpoints) -> Vec<String> {
        endpoints.all_and_unloaded().1.into_iter().map(|unloaded| unloaded.name.to_string()).collect()
    }

    #[test]
    fn what_a_client_has_unloaded_is_told_of_until_it_is_there_again() {
        let endpoints = Endpoints::default();
        endpoints.insert(endpoint("a"));
        endpoints.insert(endpoint("b"));
        endpoints.note_unload(&"a".parse().unwrap());
        assert!(names_unloaded(&endpoints).is_empty(), "it answers still");
        unload(&endpoints, "a");
        unload(&endpoints, "nobody");
        let (there, unloaded) = endpoints.all_and_unloaded();
        assert_eq!(there.iter().map(|endpoint| endpoint.name().as_str()).collect::<Vec<_>>(), ["b"]);
        let expected = UnloadedEndpoint { name: "a".parse().unwrap(), versions: vec!["3".to_owned()] };
        assert_eq!(unloaded, [expected]);
        // Whom nobody has unloaded is only gone.
        endpoints.retain(|_| false);
        assert_eq!(names_unloaded(&endpoints), ["a"]);
        endpoints.insert(endpoint("a"));
        endpoints.retain(|_| false);
        assert!(names_unloaded(&endpoints).is_empty());
    }

    #[test]
    fn what_nobody_wants_any_more_is_forgotten() {
        let endpoints = Endpoints::default();
        for name in ["a", "b"] {
            endpoints.insert(endpoint(name));
            unload(&endpoints, name);
        }
        endpoints.retain_unloaded(|name| name.as_str() == "b");
        assert_eq!(names_unloaded(&endpoints), ["b"]);
    }

    #[test]
    fn a_server_is_ready_while_it_has_endpoints_and_is_not_told_to_stop() {
        let endpoints = Endpoints::default();
        assert_eq!(endpoints.not_ready(), Some("no endpoint is loaded"));
        endpoints.insert(endpoint("a"));
        assert_eq!(endpoints.not_ready(), None);
        endpoints.note_stop();
        assert_eq!(endpoints.not_ready(), Some("the server is stopping"));
        assert!(endpoints.get("a").is_some(), "it answers still");
    }

    #[test]
    fn a_failure_is_told_of_until_it_is_none() {
        let endpoints = Endpoints::default();
        let [a, b]: [Name; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        endpoints.note_failure(&a, "first");
        endpoints.note_failure(&a, &"ä".repeat(REASON_MAX_CHARS + 1));
        endpoints.note_failure(&b, "gone");
        assert!(endpoints.has_failed("a") && !endpoints.has_failed("c") && !endpoints.has_failed("../a"));
        let kept = "ä".repeat(REASON_MAX_CHARS);
        assert_eq!(endpoints.failures(), [(a.clone(), kept), (b.clone(), "gone".to_owned())]);
        endpoints.clear_failure(&a);
        assert!(!endpoints.has_failed("a"));
        endpoints.retain_failures(|name| *name != b);
        assert!(endpoints.failures().is_empty());
    }

    #[test]
    fn a_file_that_is_not_followed_is_told_of_until_it_is() {
        let endpoints = Endpoints::default();
        assert!(endpoints.file_failure().is_none() && !endpoints.clear_file_failure());
        endpoints.note_file_failure(&"ä".repeat(REASON_MAX_CHARS + 1));
        assert_eq!(endpoints.file_failure(), Some("ä".repeat(REASON_MAX_CHARS)));
        assert!(endpoints.clear_file_failure() && endpoints.file_failure().is_none());
    }

    #[test]
    fn of_too_many_the_first_are_forgotten() {
        let endpoints = Endpoints::default();
        for index in 0..UNLOADED_MAX + 2 {
            let name = format!("e{index}");
            endpoints.insert(endpoint(&name));
            unload(&endpoints, &name);
        }
        let told = names_unloaded(&endpoints);
        assert_eq!((told.len(), told[0].as_str()), (UNLOADED_MAX, "e2"));
    }
}
