//! A worker as users see it.

use muster_proto::v1;

use crate::core::event::{WorkerStatus, WorkerView};

use super::{count, timestamp};

/// A worker of the fleet.
pub(crate) fn worker(view: WorkerView) -> v1::Worker {
    v1::Worker {
        worker_id: view.name,
        status: status(view.status).into(),
        status_message: view.message,
        slots: count(view.slots),
        held: count(view.held),
        labels: view.labels.into_iter().collect(),
        version: view.version,
        last_seen_time: view.last_seen_ms.map(timestamp),
    }
}

const fn status(status: WorkerStatus) -> v1::WorkerStatus {
    match status {
        WorkerStatus::Connected => v1::WorkerStatus::Connected,
        WorkerStatus::Draining => v1::WorkerStatus::Draining,
        WorkerStatus::SetAside => v1::WorkerStatus::SetAside,
        WorkerStatus::Disconnected => v1::WorkerStatus::Disconnected,
        WorkerStatus::Lost => v1::WorkerStatus::Lost,
    }
}
