//! The database of metadata: SQLite in the state folder or PostgreSQL by URL, with one schema and one text of SQL.
//!
//! Reads go through a pool, in parallel. Writes go through one task that owns one connection and commits what has
//! queued up as a group: each write stands in a savepoint of its own, so that one that fails undoes only itself, and
//! nobody hears of success before the commit is durable. With SQLite that makes an `fsync` serve many writers; with
//! PostgreSQL it saves round trips.

mod migrations;
mod url;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, Connection as _};

pub use self::url::{DatabaseUrl, DatabaseUrlError};
use self::writer::Writer;

/// Connections that read at the same time.
const READERS_MAX: u32 = 8;

/// Longest wait for a connection or for another process that writes.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// Pause before a file that another process has to itself is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// An open database; clones are cheap and mean the same one.
#[derive(Debug, Clone)]
pub struct Database {
    readers: AnyPool,
    writer: Writer,
    dialect: Dialect,
    project: Arc<str>,
}

/// Which SQL a database speaks, for the few words in which the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite, a file in the state folder.
    Sqlite,
    /// PostgreSQL, by URL.
    Postgres,
}

/// The database failed, or is not there.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It cannot be reached, or broke off; what was not acknowledged may or may not have been kept.
    #[error("the database cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    /// A constraint of the schema refused a value that is there already.
    #[error("there is such an entry already")]
    Conflict(#[source] sqlx::Error),
    /// The disk is full or cannot be written.
    #[error("the database cannot be written")]
    Storage(#[source] sqlx::Error),
    /// Its file is not what it was, or none.
    #[error(
        "the database is damaged: put back a backup of it, or `host import` into an empty state folder what `host export` wrote"
    )]
    Damaged(#[source] sqlx::Error),
    /// Anything else that it said.
    #[error("the database failed")]
    Failed(#[source] sqlx::Error),
    /// A newer program has changed the schema.
    #[error("the database has schema {found}: expected at most {known}, a newer `host` may have written it")]
    SchemaVersion {
        /// The version it has.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// The task that writes has ended, because the program is about to.
    #[error("the database is being closed")]
    Closed,
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Protocol(_) => {
                Self::Unavailable(error)
            }
            E::Database(told) if told.is_unique_violation() => Self::Conflict(error),
            E::Database(told) => match told.code().as_deref() {
                // SQLite: corrupt, not a database. Extended codes have the plain one in their lowest byte.
                Some(code) if sqlite_code(code).is_some_and(|code| matches!(code, 11 | 26)) => {
                    Self::Damaged(error)
                }
                // SQLite: full, I/O, read-only. PostgreSQL: class 53 is want of resources.
                Some("13" | "10" | "8" | "53100") => Self::Storage(error),
                // SQLite: busy, locked. PostgreSQL: others held what this needs, for too long or for ever.
                Some("5" | "6" | "55P03" | "40P01" | "40001" | "25P03") => Self::Unavailable(error),
                // PostgreSQL: class 57 is the operator's intervention, 08 the connection.
                Some(code) if code.len() == 5 && (code.starts_with("57") || code.starts_with("08")) => {
                    Self::Unavailable(error)
                }
                _ => Self::Failed(error),
            },
            _ => Self::Failed(error),
        }
    }
}

impl Database {
    /// Opens a database and brings its schema up to date; a file of SQLite is created in `state_folder` if need be.
    pub async fn open(url: &DatabaseUrl, state_folder: &Path) -> Result<Self, DatabaseError> {
        sqlx::any::install_default_drivers();
        let (address, dialect) = url.connect_address(state_folder);
        let options: AnyConnectOptions = address.parse()?;
        // A pool would try until its time is up, and then not say why it could not.
        tokio::time::timeout(BUSY_MAX, probe_until_free(&address, dialect))
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        let pool = |connections: u32| {
            AnyPoolOptions::new().max_connections(connections).acquire_timeout(BUSY_MAX).after_connect(
                move |connection, _| {
                    Box::pin(async move {
                        for statement in dialect.session_settings() {
                            sqlx::query(*statement).execute(&mut *connection).await?;
                        }
                        Ok(())
                    })
                },
            )
        };
        let owner = pool(1).connect_with(options.clone()).await?;
        let project = Arc::from(migrations::apply(&owner, dialect).await?);
        let readers = pool(READERS_MAX).connect_lazy_with(options);
        Ok(Self { readers, writer: Writer::start(owner, dialect), dialect, project })
    }

    /// What the database calls itself, unlike any other: for [`super::Store::for_project`].
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Connections for reading.
    pub fn readers(&self) -> &AnyPool {
        &self.readers
    }

    /// Runs `write` inside a transaction, whole or not at all, and durable when this returns without an error.
    ///
    /// Writes run one after the other. `write` may be called only once; one that returns an error is undone.
    pub async fn write<T, E, W>(&self, write: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
        W: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
    {
        self.writer.write(write).await
    }
}

/// Connects once, as the pool will, and again while another process has the file to itself.
///
/// SQLite waits by itself for most locks, but not for the one that changes a new file to a write-ahead log: of two
/// processes that open one at the same time, it refuses the second at once.
async fn probe_until_free(address: &str, dialect: Dialect) -> Result<(), sqlx::Error> {
    loop {
        match probe(address, dialect).await {
            Err(error) if dialect == Dialect::Sqlite && is_busy(&error) => {
                tokio::time::sleep(BUSY_PAUSE).await
            }
            probed => return probed,
        }
    }
}

/// Whether another has locked a file of SQLite.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|told| sqlite_code(&told.code()?));
    code.is_some_and(|code| matches!(code, 5 | 6))
}

/// The plain code of one of SQLite's, which is the lowest byte of an extended one; none of one of PostgreSQL's, which have five
/// letters.
fn sqlite_code(code: &str) -> Option<u32> {
    let code: u32 = if code.len() < 5 { code.parse().ok()? } else { return None };
    Some(code & 0xff)
}

/// Connects once, as the pool will.
async fn probe(address: &str, dialect: Dialect) -> Result<(), sqlx::Error> {
    let mut connection = AnyConnection::connect(address).await?;
    for statement in dialect.session_settings() {
        sqlx::query(*statement).execute(&mut connection).await?;
    }
    connection.close().await
}

impl Dialect {
    fn session_settings(self) -> &'static [&'static str] {
        match self {
            // A commit is synced before it is acknowledged; readers do not wait for the writer.
            Self::Sqlite => &[
                "PRAGMA busy_timeout = 10000",
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = FULL",
                "PRAGMA foreign_keys = ON",
                // As in PostgreSQL and in MLflow.
                "PRAGMA case_sensitive_like = ON",
                "PRAGMA cache_size = -8000",
                "PRAGMA temp_store = MEMORY",
            ],
            // A writer that is stopped in the middle must not hold up all others for ever.
            Self::Postgres => &[
                "SET lock_timeout = '10s'",
                "SET idle_in_transaction_session_timeout = '60s'",
                "SET synchronous_commit = on",
            ],
        }
    }

    /// Begins a transaction that will write, and waits until nobody else does.
    ///
    /// One that reads what it then changes, such as the newest point of a metric, relies on that nobody changes it in
    /// between. SQLite has one writer anyway; with PostgreSQL that is a lock of ours, which costs little because groups
    /// share it, and leaves no deadlocks.
    async fn begin(self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let statements = match self {
            // Takes the lock at once: one that reads first and writes later could find the lock taken and have to give up.
            Self::Sqlite => "BEGIN IMMEDIATE",
            // The number is "host" in ASCII; advisory locks have no other names.
            Self::Postgres => "BEGIN; SELECT pg_advisory_xact_lock(1752134516)",
        };
        sqlx::raw_sql(statements).execute(connection).await.map(drop)
    }
}
