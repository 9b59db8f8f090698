use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Endpoint, WindowError};

/// The endpoints of a server, by name. They come, go and change while requests are answered.
#[derive(Default)]
pub struct Endpoints {
    by_name: RwLock<BTreeMap<String, Arc<Endpoint>>>,
}

impl Endpoints {
    /// The endpoint of a name.
    pub fn get(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// Adds one, in place of what had its name.
    pub fn insert(&self, endpoint: Endpoint) {
        let name = endpoint.name().to_string();
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(endpoint));
    }

    /// Removes those that are not to be kept; requests that they have begun end well.
    pub fn retain(&self, keep: impl Fn(&Endpoint) -> bool) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).retain(|_, endpoint| keep(endpoint));
    }

    /// Writes what the windows of all endpoints have captured; tells the last failure, after all were tried.
    pub fn flush_windows(&self) -> Result<(), WindowError> {
        let mut flushed = Ok(());
        for endpoint in self.all() {
            for deployment in endpoint.routing().deployments() {
                if let Some(Err(error)) = deployment.window().map(|window| window.flush()) {
                    flushed = Err(error);
                }
            }
        }
        flushed
    }
}
