//! `/v1/events`: the log as a list, or as a stream that can be resumed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event as Sent, KeepAlive, Sse},
    },
};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::timeout,
};

use super::{
    Context, Shared,
    door::{Query, deployment_id, page_size},
    problem::Fault,
};
use crate::{
    api::{EventView, Page, ProgressView},
    event::Event,
    live::Message,
    node::NodeId,
    provisioner::Undone,
    store::{EventFilter, EventKind},
    view,
};

/// How long a stream waits before it looks for events of another server.
const LOOK: Duration = Duration::from_secs(5);
/// How many events a stream reads at once.
const BATCH: i64 = 500;

/// Which events are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Those after this number; a list begins with the first one, a stream with the next one.
    since: Option<i64>,
    /// The `next` of the page before.
    after: Option<i64>,
    /// Items at most: 1 to 1000, 100 when absent.
    limit: Option<i64>,
    /// Those of this node: name, identifier or MAC address.
    node: Option<String>,
    /// Those of this deployment.
    deployment: Option<String>,
    /// Those of this kind, and of those below it: `slice` has `slice.ready`.
    kind: Option<String>,
}

/// What happened, oldest first; with `Accept: text/event-stream` for ever, live progress included.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(Which, ("Last-Event-ID" = Option<i64>, Header, description = "resumes a stream")),
    responses((status = OK, content((Page<EventView> = "application/json"),
        (String = "text/event-stream")))))]
pub async fn events(
    State(shared): Context,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Result<Response, Fault> {
    let node = match &which.node {
        Some(key) => Some(shared.provisioner.node(key).await?.id),
        None => None,
    };
    let deployment = which.deployment.as_deref().map(deployment_id).transpose()?;
    let kind = which.kind.as_deref().map(str::parse::<EventKind>).transpose();
    let kind = kind.map_err(|error| Fault::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let begin = which.since.max(which.after);
    let filter = EventFilter { since: begin.unwrap_or(0), node, deployment, kind };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let streams = text(header::ACCEPT).is_some_and(|kinds| kinds.contains("text/event-stream"));
    if !streams {
        return Ok(list(&shared, filter, page_size(which.limit)?).await?.into_response());
    }
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last = last.map(|last| last.trim().parse::<i64>()).transpose().map_err(|_| {
        Fault::new(StatusCode::BAD_REQUEST, "Last-Event-ID is not the number of an event")
    })?;
    // Listen first, then read: nothing falls between the two.
    let messages = shared.provisioner.live.listen();
    let newest = shared.provisioner.store.last_event().await.map_err(Undone::from)?;
    let since = last.or(begin).unwrap_or(newest);
    let filter = EventFilter { since, ..filter };
    let follower = Follower { shared, messages, filter, ready: Vec::new(), behind: true };
    let stream = stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|sent| (Ok::<_, Infallible>(sent), follower))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

async fn list(
    shared: &Arc<Shared>,
    filter: EventFilter,
    limit: i64,
) -> Result<Json<Page<EventView>>, Fault> {
    let events = shared.provisioner.store.events(filter, limit + 1).await.map_err(Undone::from)?;
    let mut items = Vec::new();
    for event in events.iter().take(limit as usize) {
        items.push(view::event(event, name_of(shared, event.node).await));
    }
    let more = events.len() > items.len();
    let next = items.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(Page { items, next }))
}

/// Who follows the log.
struct Follower {
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    filter: EventFilter,
    /// Read from the log and not sent yet, the oldest last.
    ready: Vec<Event>,
    /// Whether the log may hold more than what was told.
    behind: bool,
}

impl Follower {
    /// The next thing to send; nothing when the server ends.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(event) = self.ready.pop() {
                self.filter.since = event.id;
                let view = view::event(&event, name_of(&self.shared, event.node).await);
                return render("event", Some(event.id), &view);
            }
            if self.behind {
                self.read().await;
                continue;
            }
            match timeout(LOOK, self.messages.recv()).await {
                Ok(Ok(Message::Event(event))) => self.take(event),
                Ok(Ok(Message::Progress(node, progress))) => {
                    let id = progress.deployment.parse().ok();
                    let mine = self.filter.kind.is_none()
                        && self.filter.node.is_none_or(|wanted| wanted == node)
                        && self.filter.deployment.is_none_or(|wanted| Some(wanted) == id);
                    if mine {
                        let node = name_of(&self.shared, Some(node)).await?;
                        return render("progress", None, &ProgressView { node, progress });
                    }
                }
                Ok(Ok(Message::Ending) | Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(_))) | Err(_) => self.behind = true,
            }
        }
    }

    async fn read(&mut self) {
        match self.shared.provisioner.store.events(self.filter.clone(), BATCH).await {
            Ok(mut events) => {
                self.behind = events.len() as i64 == BATCH;
                events.reverse();
                self.ready = events;
            }
            Err(error) => {
                tracing::error!("reading events: {error}");
                self.behind = false;
            }
        }
    }

    /// An event that was told counts when it was not read from the log before.
    fn take(&mut self, event: Event) {
        if self.filter.takes(&event) && event.id > self.filter.since {
            self.ready.push(event);
        }
    }
}

fn render(kind: &str, id: Option<i64>, view: &impl Serialize) -> Option<Sent> {
    let sent = Sent::default().event(kind).json_data(view).ok()?;
    Some(match id {
        Some(id) => sent.id(id.to_string()),
        None => sent,
    })
}

async fn name_of(shared: &Arc<Shared>, node: Option<NodeId>) -> Option<String> {
    let id = node?.to_string();
    let found = shared.provisioner.store.node(&id).await.ok().flatten();
    Some(found.map_or(id, |node| node.name))
}
