//! Clients that wait for an execution to go on: each holds its connection, and no worker. `executions::waiting` looks after
//! them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::auth::Tenant;
use crate::http::parked_response::ParkedResponse;
use crate::http::response::Response;

/// Clients that may wait at a time, and those of one key.
const MOST: usize = 1000;
const MOST_OF_KEY: usize = 100;

/// What a client wants to be told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// How the execution is, once it has ended, with this status.
    Execution { execution: Uuid, status: u16 },
    /// Its events after this one, at most so many, once there are any.
    Events { execution: Uuid, after: i32, limit: usize },
    /// What a task has printed, once there is more than the client has.
    Log { execution: Uuid, task: String, number: i32, attempt: Option<i32>, part: LogPart },
}

/// Which part of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogPart {
    /// From this offset on, in all that was printed.
    After(i64),
    /// So many last lines.
    Tail(usize),
}

/// A client that waits.
pub struct WaitingClient {
    /// Its key.
    pub key: Uuid,
    pub tenant: Tenant,
    pub wanted: Wanted,
    /// It is answered by then.
    pub until: Instant,
    pub request_id: String,
    pub parked: ParkedResponse,
    /// The answer where no better one can be made.
    pub fallback: Option<Response>,
    pub place: Place,
}

/// The clients that wait.
#[derive(Default)]
pub struct WaitingClients {
    clients: Mutex<Vec<WaitingClient>>,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    taken: usize,
    of_key: HashMap<Uuid, usize>,
}

/// The right to wait, until it is dropped.
pub struct Place {
    clients: Arc<WaitingClients>,
    key: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.clients.places.lock();
        places.taken -= 1;
        if let Some(count) = places.of_key.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                places.of_key.remove(&self.key);
            }
        }
    }
}

impl WaitingClients {
    /// A place for a client with this key; `None`: as many wait as may.
    pub fn reserve(self: &Arc<Self>, key: Uuid) -> Option<Place> {
        let mut places = self.places.lock();
        let of_key = places.of_key.get(&key).copied().unwrap_or(0);
        if places.taken >= MOST || of_key >= MOST_OF_KEY {
            return None;
        }
        places.taken += 1;
        places.of_key.insert(key, of_key + 1);
        drop(places);
        Some(Place { clients: Arc::clone(self), key })
    }

    pub fn add(&self, client: WaitingClient) {
        self.clients.lock().push(client);
    }

    /// What is made of each, in their order. Those that come later follow on these.
    pub fn map<T>(&self, of: impl FnMut(&WaitingClient) -> T) -> Vec<T> {
        self.clients.lock().iter().map(of).collect()
    }

    /// Takes those out for which this is true. Only one thread does.
    pub fn take(&self, mut is_over: impl FnMut(usize, &WaitingClient) -> bool) -> Vec<WaitingClient> {
        let mut place = 0;
        let mut clients = self.clients.lock();
        let over = clients.extract_if(.., |client| {
            place += 1;
            is_over(place - 1, client)
        });
        over.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let clients = Arc::new(WaitingClients::default());
        let key = Uuid::from_u128(1);
        let mut places: Vec<_> = std::iter::from_fn(|| clients.reserve(key)).collect();
        assert_eq!(places.len(), MOST_OF_KEY);
        places.pop();
        assert!(clients.reserve(key).is_some_and(|place| place.key == key));
        let others = (2..).map(|key| clients.reserve(Uuid::from_u128(key))).map_while(|place| place);
        let others: Vec<_> = others.collect();
        assert_eq!(others.len(), MOST - MOST_OF_KEY + 1);
        drop((places, others));
        let places = clients.places.lock();
        assert!(places.taken == 0 && places.of_key.is_empty());
    }
}
