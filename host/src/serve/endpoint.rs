use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderName};

use super::{AnswerCache, Call, Deployment, EndpointPolicy, Queue, QueueLimits, Shadow};
use crate::domain::{Name, mix};
use crate::registry::ModelReference;

/// The number of what is no version of a model's: a bundle without a name, and an endpoint made of others. Servers of the Open
/// Inference Protocol call the only version of a model so.
const UNNUMBERED: i64 = 1;

/// A served name: the last part of `/serve/{endpoint}`, and who answers what is asked of it.
///
/// What answers is replaced as one: a request that has begun ends with the deployment that it began with, and one that
/// comes later sees the new routing whole.
pub struct Endpoint {
    name: Name,
    routing: RwLock<Arc<Routing>>,
    /// Counts requests, from a number of its own on; from it chance is drawn.
    requests: AtomicU64,
    /// Begins the hash of a key, so that keys do not fall the same way at every endpoint.
    key_basis: u64,
}

/// Which deployments share the requests of an endpoint.
#[derive(Clone)]
pub struct Routing {
    routes: Vec<Route>,
    /// Loaded, but asked only by version: what was replaced, the newest first.
    kept: Vec<Arc<Deployment>>,
    /// Given requests too, for comparison.
    shadows: Vec<Shadow>,
    /// Header by which requests stay with one of several deployments.
    sticky: Option<HeaderName>,
    /// Where requests wait for their turn.
    queue: Arc<Queue>,
    /// Answers that were given before.
    cache: Option<Arc<AnswerCache>>,
}

/// A deployment and its part of the requests.
#[derive(Clone)]
pub struct Route {
    /// Who answers.
    pub deployment: Arc<Deployment>,
    /// Its part: this weight of the sum of all.
    pub weight: u32,
    /// The model that was asked for, of which it is the version now; none where that does not change.
    pub model: Option<ModelReference>,
}

impl Endpoint {
    /// Makes an endpoint.
    pub fn new(name: Name, routing: Routing) -> Self {
        // No two endpoints and no two servers draw the same: what passes through several would meet each canary or none.
        let (first, _) = uuid::Uuid::new_v4().as_u64_pair();
        // The same on every server. No key begins with the zero.
        let key_basis = fnv(fnv(FNV_BASIS, name.as_str().as_bytes()), &[0]);
        routing.open_windows();
        Self { name, routing: RwLock::new(Arc::new(routing)), requests: AtomicU64::new(first), key_basis }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Who answers now.
    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.routing.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets others answer from the next request on.
    pub fn set_routing(&self, routing: Routing) {
        routing.open_windows();
        *self.routing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routing);
    }

    /// Who of a routing of this endpoint answers a request with these headers; none where nobody does.
    pub fn choose(&self, routing: &Routing, headers: &HeaderMap) -> Option<Arc<Deployment>> {
        let key = || routing.sticky.as_ref().and_then(|name| headers.get(name)).filter(|key| !key.is_empty());
        let draw = || match key() {
            // Mixed once more, so that its upper half is even too.
            Some(key) => mix(fnv(self.key_basis, key.as_bytes())),
            None => mix(self.requests.fetch_add(1, Ordering::Relaxed)),
        };
        routing.choose(draw).map(Arc::clone)
    }
}

impl Routing {
    /// All requests to one deployment.
    pub fn to(deployment: Arc<Deployment>) -> Self {
        Self::split(vec![Route { deployment, weight: 1, model: None }], None)
    }

    /// Requests by weight. Those with the same value of the header `sticky` get the same deployment, as long as neither
    /// weights nor deployments change.
    pub fn split(routes: Vec<Route>, sticky: Option<HeaderName>) -> Self {
        let queue = Arc::new(Queue::new(QueueLimits::default()));
        Self { routes, kept: Vec::new(), shadows: Vec::new(), sticky, queue, cache: None }
    }

    /// Computes requests as `policy` says.
    pub fn computing_by(self, policy: &EndpointPolicy) -> Self {
        self.going_on(policy, None)
    }

    /// The same, with the queue and the cache that the routing before this one has, where they fit the policy.
    pub(super) fn going_on(self, policy: &EndpointPolicy, before: Option<&Self>) -> Self {
        let queue = before.map(Self::queue).filter(|queue| queue.limits() == policy.queue);
        let queue = queue.map_or_else(|| Arc::new(Queue::new(policy.queue)), Arc::clone);
        let cache = before.and_then(Self::cache).filter(|cache| cache.max_bytes() == policy.cache_bytes);
        let new_cache = || (policy.cache_bytes > 0).then(|| Arc::new(AnswerCache::new(policy.cache_bytes)));
        let cache = cache.cloned().or_else(new_cache);
        for deployment in self.deployments() {
            deployment.batch_by(policy.batch, &queue);
        }
        Self { queue, cache, ..self }
    }

    /// Gives requests to `shadows` too.
    pub fn shadowed_by(self, shadows: Vec<Shadow>) -> Self {
        Self { shadows, ..self }
    }

    /// Keeps deployments loaded that are asked only by version, the newest first.
    pub fn keeping(self, kept: Vec<Arc<Deployment>>) -> Self {
        Self { kept, ..self }
    }

    /// Whether it computes requests as `policy` says.
    pub(super) fn is_computing_by(&self, policy: &EndpointPolicy) -> bool {
        self.queue.limits() == policy.queue
            && self.cache().map_or(0, |cache| cache.max_bytes()) == policy.cache_bytes
            && self.deployments().all(|deployment| deployment.is_batching_by(policy.batch))
    }

    /// The header by which requests stay with one of several deployments.
    pub fn sticky(&self) -> Option<&HeaderName> {
        self.sticky.as_ref()
    }

    /// Deployments with their parts of the requests.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Who answers for what is followed by that reference.
    pub fn answering_for(&self, model: &ModelReference) -> Option<&Arc<Deployment>> {
        let route = self.routes.iter().find(|route| route.model.as_ref() == Some(model));
        route.map(|route| &route.deployment)
    }

    /// Who is given requests for what is followed by that reference.
    pub fn shadowing_for(&self, model: &ModelReference) -> Option<&Arc<Deployment>> {
        self.shadows.iter().find(|shadow| shadow.model() == model).map(Shadow::deployment)
    }

    /// Who is given requests for comparison.
    pub fn shadows(&self) -> &[Shadow] {
        &self.shadows
    }

    /// Where requests wait for their turn.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Answers that were given before.
    pub fn cache(&self) -> Option<&Arc<AnswerCache>> {
        self.cache.as_ref()
    }

    /// What a request brings along whose client waits until `of_client`.
    pub(super) fn call(&self, of_client: Option<tokio::time::Instant>) -> Call {
        let deadline = self.queue.deadline(of_client);
        Call { queue: Arc::clone(&self.queue), cache: self.cache.clone(), deadline, speaker: None }
    }

    /// The part of the requests that a deployment gets.
    pub fn weight(&self, deployment: &Arc<Deployment>) -> u32 {
        let own = self.routes.iter().filter(|route| Arc::ptr_eq(&route.deployment, deployment));
        own.map(|route| route.weight).sum()
    }

    /// Whether what a deployment answers is an answer of the endpoint's: who has no part of the requests is asked only by number.
    pub(super) fn is_answered_by(&self, deployment: &Arc<Deployment>) -> bool {
        self.weight(deployment) > 0
    }

    /// Lets windows have what the endpoint answers, and nothing else.
    pub(super) fn open_windows(&self) {
        for deployment in self.loaded() {
            if let Some(window) = deployment.window() {
                window.set_open(self.is_answered_by(deployment));
            }
        }
    }

    /// Lets windows have what those who have a part of the requests answer, and closes none.
    pub(super) fn open_answering_windows(&self) {
        let answering = self.routes.iter().filter(|route| route.weight > 0);
        answering.filter_map(|route| route.deployment.window()).for_each(|window| window.set_open(true));
    }

    /// Deployments that are asked only by version.
    pub fn kept(&self) -> &[Arc<Deployment>] {
        &self.kept
    }

    /// Every deployment that answers or can be asked by its version, once.
    pub fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        let routes = self.routes.iter().enumerate();
        let is_first = |index: usize, route: &Route| {
            let before = self.routes.iter().take(index);
            !before.into_iter().any(|other| Arc::ptr_eq(&other.deployment, &route.deployment))
        };
        let answering = routes.filter(move |(index, route)| is_first(*index, route));
        answering.map(|(_, route)| &route.deployment).chain(&self.kept)
    }

    /// Every deployment that is loaded, shadows too, once.
    pub fn loaded(&self) -> Vec<&Arc<Deployment>> {
        let mut all: Vec<&Arc<Deployment>> = Vec::new();
        for deployment in self.deployments().chain(self.shadows.iter().map(Shadow::deployment)) {
            if !all.iter().any(|known| Arc::ptr_eq(known, deployment)) {
                all.push(deployment);
            }
        }
        all
    }

    /// The first deployment that has a number.
    pub fn version(&self, number: i64) -> Option<&Arc<Deployment>> {
        self.deployments().find(|deployment| number_of(deployment) == number)
    }

    /// All that can be asked for by number: of several with one, the first.
    pub(super) fn numbered(&self) -> Vec<(i64, &Arc<Deployment>)> {
        let mut numbered: Vec<(i64, _)> = Vec::new();
        for deployment in self.deployments() {
            let number = number_of(deployment);
            if numbered.iter().all(|&(known, _)| known != number) {
                numbered.push((number, deployment));
            }
        }
        numbered
    }

    /// The numbers of all deployments, each once, as they are told.
    pub(super) fn numbers(&self) -> Vec<String> {
        self.numbered().into_iter().map(|(number, _)| number.to_string()).collect()
    }

    /// Who answers most requests, of several the first; none where nobody answers.
    pub fn main(&self) -> Option<&Arc<Deployment>> {
        main_of(&self.routes)
    }

    fn choose(&self, draw: impl FnOnce() -> u64) -> Option<&Arc<Deployment>> {
        if let [only] = self.routes.as_slice() {
            return Some(&only.deployment);
        }
        let sum: u64 = self.routes.iter().map(|route| u64::from(route.weight)).sum();
        // The upper half of the product is even over the weights, whatever their sum is.
        let mut place = ((u128::from(draw()) * u128::from(sum)) >> 64) as u64;
        for route in &self.routes {
            let weight = u64::from(route.weight);
            if place < weight {
                return Some(&route.deployment);
            }
            place -= weight;
        }
        None
    }
}

/// Who answers most requests, of several the first; none where nobody answers.
pub(super) fn main_of(routes: &[Route]) -> Option<&Arc<Deployment>> {
    let answering = routes.iter().filter(|route| route.weight > 0);
    answering.rev().max_by_key(|route| route.weight).map(|route| &route.deployment)
}

/// The number of the version that a deployment is.
pub(super) fn number_of(deployment: &Deployment) -> i64 {
    deployment.version().map_or(UNNUMBERED, |(_, number)| *number)
}

/// What FNV-1a begins with.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a (Fowler, Noll, Vo) goes on over the bytes.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(hash, step)
}

#[cfg(test)]
mod tests {
    use super::super::WindowCapture;
    use super::super::deployment::tests::{deployment, deployment_with};
    use super::*;
    use crate::data::WindowWriter;
    use crate::domain::{Batch, Digest, Tensor};
    use crate::store::Store;

    fn split(weights: &[u32]) -> Endpoint {
        split_at("e", weights)
    }

    fn split_at(name: &str, weights: &[u32]) -> Endpoint {
        let route = |(number, weight): (i64, &u32)| Route {
            deployment: Arc::new(deployment(1, 1).1.named("m", number)),
            weight: *weight,
            model: None,
        };
        let routes = (1..).zip(weights).map(route).collect();
        Endpoint::new(name.parse().unwrap(), Routing::split(routes, Some(HeaderName::from_static("x-user"))))
    }

    fn choose(endpoint: &Endpoint, headers: &HeaderMap) -> Option<Arc<Deployment>> {
        endpoint.choose(&endpoint.routing(), headers)
    }

    fn number(deployment: &Deployment) -> i64 {
        deployment.version().unwrap().1
    }

    #[test]
    fn requests_are_shared_by_weight() {
        let endpoint = split(&[90, 0, 10]);
        let mut counts = [0_u32; 4];
        for _ in 0..10_000 {
            counts[number(&choose(&endpoint, &HeaderMap::new()).unwrap()) as usize] += 1;
        }
        assert_eq!(counts[2], 0);
        assert!((800..1_200).contains(&counts[3]), "{counts:?}");
        assert_eq!(counts.iter().sum::<u32>(), 10_000);
        assert!(
            choose(&split(&[]), &HeaderMap::new()).is_none()
                && choose(&split(&[0, 0]), &HeaderMap::new()).is_none()
        );
    }

    #[test]
    fn who_answers_most_speaks_for_an_endpoint() {
        let main = |weights: &[u32]| split(weights).routing().main().map(|main| number(main));
        assert_eq!(main(&[0, 10, 90]), Some(3));
        assert_eq!(main(&[0, 50, 50]), Some(2));
        assert_eq!((main(&[]), main(&[0, 0])), (None, None));
    }

    #[test]
    fn a_key_stays_with_its_deployment() {
        let endpoint = split(&[1, 1]);
        let mut counts = [0_u32; 3];
        for user in 0..1_000_u32 {
            let key = format!("user {user}").parse().unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user"), key)]);
            let chosen = number(&choose(&endpoint, &headers).unwrap());
            assert_eq!(number(&choose(&endpoint, &headers).unwrap()), chosen);
            counts[chosen as usize] += 1;
        }
        assert!((400..600).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn endpoints_draw_apart_and_keys_fall_the_same_on_every_server() {
        let draws = |endpoint: &Endpoint, headers: &dyn Fn(u32) -> HeaderMap| -> Vec<i64> {
            (0..1_000).map(|user| number(&choose(endpoint, &headers(user)).unwrap())).collect()
        };
        let both = |a: &[i64], b: &[i64]| a.iter().zip(b).filter(|(a, b)| **a == 2 && a == b).count();
        let user = |user: u32| {
            let key = format!("user {user}").parse().unwrap();
            HeaderMap::from_iter([(HeaderName::from_static("x-user"), key)])
        };
        let [here, there, other] = ["e", "e", "f"].map(|name| split_at(name, &[1, 1]));
        assert_eq!(draws(&here, &user), draws(&there, &user));
        // Of two that know nothing of each other a quarter falls together.
        let together = both(&draws(&here, &user), &draws(&other, &user));
        assert!((150..350).contains(&together), "{together}");
        let nobody = |_: u32| HeaderMap::new();
        let together = both(&draws(&here, &nobody), &draws(&there, &nobody));
        assert!((150..350).contains(&together), "{together}");
    }

    #[test]
    fn an_empty_key_is_none() {
        let endpoint = split(&[1, 1]);
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user"), "".parse().unwrap())]);
        let chosen: Vec<i64> = (0..100).map(|_| number(&choose(&endpoint, &headers).unwrap())).collect();
        assert!(chosen.contains(&1) && chosen.contains(&2), "{chosen:?}");
    }

    #[test]
    fn versions_that_are_kept_answer_only_by_number() {
        let endpoint = split(&[1]);
        let old = Arc::new(deployment(1, 1).1.named("m", 7));
        endpoint.set_routing(Routing::clone(&endpoint.routing()).keeping(vec![old]));
        assert!((0..100).all(|_| number(&choose(&endpoint, &HeaderMap::new()).unwrap()) == 1));
        let routing = endpoint.routing();
        assert_eq!(number(routing.version(7).unwrap()), 7);
        assert!(routing.version(1).is_some() && routing.version(2).is_none());
        assert_eq!(routing.deployments().count(), 2);
    }

    /// A version with a window for this endpoint.
    fn watched(store: &Store, number: i64) -> Arc<Deployment> {
        let writer = WindowWriter::open(store, &"e".parse().unwrap(), Digest::of(b""), 100).unwrap();
        let window = Arc::new(WindowCapture::new(writer, Arc::default()));
        Arc::new(deployment_with(1, 1, Some(window)).1.named("m", number))
    }

    #[test]
    fn windows_have_what_the_endpoint_answers_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let versions = [1, 2, 3].map(|number| watched(&store, number));
        let row = Batch::new(vec![Tensor::from_f32("x", vec![1], &[0.0]).unwrap()]).unwrap();
        let take = || {
            versions.each_ref().map(|version| {
                let window = version.window().unwrap();
                window.offer(&row, &Batch::default());
                window.flush().unwrap()
            })
        };
        let [first, second, third] = versions.each_ref().map(Arc::clone);
        let route = |deployment: &Arc<Deployment>, weight| Route {
            deployment: Arc::clone(deployment),
            weight,
            model: None,
        };
        let routing = Routing::split(vec![route(&first, 1), route(&second, 0)], None).keeping(vec![third]);
        let endpoint = Endpoint::new("e".parse().unwrap(), routing);
        assert_eq!(take(), [1, 0, 0]);
        let [first, _, third] = versions.each_ref().map(Arc::clone);
        let routing = Routing::split(vec![route(&second, 9), route(&third, 1)], None).keeping(vec![first]);
        endpoint.set_routing(routing);
        assert_eq!(take(), [0, 1, 1]);
    }

    #[test]
    fn what_is_no_version_of_a_model_s_is_version_1() {
        let unnamed = || Arc::new(deployment(1, 1).1);
        let (first, before) = (unnamed(), unnamed());
        let routing = Routing::to(Arc::clone(&first)).keeping(vec![before]);
        assert!(Arc::ptr_eq(routing.version(1).unwrap(), &first), "the one that answers");
        assert!(routing.version(0).is_none() && routing.version(2).is_none());
        assert_eq!(routing.numbers(), ["1"]);
    }
}
