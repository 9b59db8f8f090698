use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use sqlx::{AnyConnection, AnyPool};
use tokio::sync::{mpsc, oneshot};

use super::{DatabaseError, Dialect};

/// Writes that may wait; more wait outside.
const QUEUE_MAX: usize = 1_024;

/// Writes of one commit.
const GROUP_MAX: usize = 256;

/// Time after which a group is closed, so that whoever came first does not wait for all who come later.
const GROUP_TIME_MAX: Duration = Duration::from_millis(10);

/// The queue in front of the one task that writes.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn QueuedWrite>>,
}

/// What the task knows of a write.
trait QueuedWrite: Send {
    /// Runs it, keeping the result; says whether it is to be kept in the database too.
    fn run<'c>(&'c mut self, connection: &'c mut AnyConnection) -> BoxFuture<'c, bool>;
    /// Tells whoever waits: the result, or why the group was lost.
    fn finish(self: Box<Self>, group: Result<(), DatabaseError>);
}

struct Queued<W, T, E> {
    write: Option<W>,
    outcome: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, E>>,
}

impl<T, E, W> QueuedWrite for Queued<W, T, E>
where
    T: Send + 'static,
    E: From<DatabaseError> + Send + 'static,
    W: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
{
    fn run<'c>(&'c mut self, connection: &'c mut AnyConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            let Some(write) = self.write.take() else { return false };
            let outcome = write(connection).await;
            let keep = outcome.is_ok();
            self.outcome = Some(outcome);
            keep
        })
    }

    fn finish(self: Box<Self>, group: Result<(), DatabaseError>) {
        let told = match (self.outcome, group) {
            // Its own error says more than that the group failed.
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(())) => Err(DatabaseError::Closed.into()),
        };
        // Whoever asked may have gone.
        let _ = self.answer.send(told);
    }
}

impl Writer {
    /// Starts the task; it ends when the last clone is gone.
    pub(super) fn start(owner: AnyPool, dialect: Dialect) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(waiting, owner, dialect));
        Self { queue }
    }

    pub(super) async fn write<T, E, W>(&self, write: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
        W: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
    {
        let (answer, told) = oneshot::channel();
        let queued = Queued { write: Some(write), outcome: None, answer };
        self.queue.send(Box::new(queued)).await.map_err(|_| DatabaseError::Closed)?;
        told.await.map_err(|_| DatabaseError::Closed)?
    }
}

async fn run(mut waiting: mpsc::Receiver<Box<dyn QueuedWrite>>, owner: AnyPool, dialect: Dialect) {
    while let Some(first) = waiting.recv().await {
        let mut group = Vec::with_capacity(1);
        let outcome = commit_group(&mut waiting, first, &mut group, &owner, dialect).await;
        match outcome {
            Ok(()) => group.into_iter().for_each(|write| write.finish(Ok(()))),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a group of writes was lost");
                let mut error = Some(error);
                for write in group {
                    write.finish(Err(error.take().unwrap_or(DatabaseError::Unavailable(
                        sqlx::Error::Protocol("the group it was written with was lost".to_owned()),
                    ))));
                }
            }
        }
    }
}

/// Runs `first` and all that queues up meanwhile in one transaction. `group` holds them whatever comes.
async fn commit_group(
    waiting: &mut mpsc::Receiver<Box<dyn QueuedWrite>>,
    first: Box<dyn QueuedWrite>,
    group: &mut Vec<Box<dyn QueuedWrite>>,
    owner: &AnyPool,
    dialect: Dialect,
) -> Result<(), DatabaseError> {
    group.push(first);
    let mut connection = owner.acquire().await?;
    let outcome = async {
        let started = Instant::now();
        dialect.begin(&mut connection).await?;
        let mut done = 0;
        while let Some(write) = group.get_mut(done) {
            // The first has nothing before it that could be lost; what is kept needs no release, because the commit keeps
            // all, and a savepoint of the same name hides the older.
            if done > 0 {
                sqlx::query("SAVEPOINT one").execute(&mut *connection).await?;
            }
            match (write.run(&mut connection).await, done) {
                (true, _) => {}
                (false, 0) => {
                    sqlx::query("ROLLBACK").execute(&mut *connection).await?;
                    dialect.begin(&mut connection).await?;
                }
                (false, _) => {
                    sqlx::query("ROLLBACK TO one").execute(&mut *connection).await?;
                }
            }
            done += 1;
            if done < GROUP_MAX && started.elapsed() < GROUP_TIME_MAX {
                group.extend(waiting.try_recv());
            }
        }
        sqlx::query("COMMIT").execute(&mut *connection).await?;
        Ok(())
    }
    .await;
    if outcome.is_err() {
        // Whatever state it is in, a new one is in none.
        let _ = connection.close().await;
    }
    outcome
}
