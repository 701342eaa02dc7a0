//! Socket.IO: from an event to its acknowledgement.
//!
//! Takes what clients emit; gives the pipeline stamped messages in the order of arrival. Which events there are, what each takes and
//! answers, whether it needs an acknowledgement, and which limit and deadline it has is in one table ([`crate::wire::events`]); here each
//! gets its handler ([`handlers`]). [`connect`] admits connections, and releases what they hold when they end.
//!
//! Every event is answered within the deadline. A refusal never ends the connection, unless the client ignores many refusals
//! ([`crate::limits::connection`]).

mod ack;
mod connect;
mod handlers;

use std::sync::Arc;

use holdfast_message::UserId;
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::{Event, SocketRef, TryData};
use socketioxide::socket::Socket;

use self::ack::Ack;
pub(crate) use self::connect::{authenticate, connected, release};
use crate::auth::Identity;
use crate::deliver::sessions::Session;
use crate::gateway::Gateway;
use crate::refusal::{Code, Refusal};
use crate::wire::events::{self, ClientEvent};

/// An event on its way through its handler.
struct Call<R> {
    gateway: Arc<Gateway>,
    socket: SocketRef,
    user: UserId,
    request: R,
}

/// What a handler answers. What the value holds besides the answer, as a slot among the requests of its socket, is released once the
/// answer is given.
trait Answer<E: ClientEvent>: Send {
    /// Calls `give` with the answer as it goes to the wire.
    fn give<T>(&self, give: impl FnOnce(&E::Answer<'_>) -> T) -> T;

    /// The answer was queued for the client.
    fn given(&self) {}
}

/// Registers a handler for every client event.
fn listen(gateway: &Arc<Gateway>, socket: &SocketRef) {
    handlers::on_send(gateway, socket);
    on::<events::History, _, _>(gateway, socket, handlers::history);
    on::<events::Resume, _, _>(gateway, socket, handlers::resume);
    on::<events::MarkRead, _, _>(gateway, socket, handlers::mark_read);
    on::<events::Unread, _, _>(gateway, socket, handlers::unread);
    on::<events::Conversations, _, _>(gateway, socket, handlers::conversations);
    on::<events::Typing, _, _>(gateway, socket, handlers::typing);
    on::<events::Presence, _, _>(gateway, socket, handlers::presence);
    let gateway = gateway.clone();
    socket.on_fallback(async move |Event(event): Event, ack: Ack| {
        tracing::debug!(event = event.chars().take(64).collect::<String>(), "an unknown event");
        let no_such_event = || Refusal::new(Code::Validation, "no such event");
        ack.refuse(&gateway.metrics, &ack.required(&gateway.metrics).err().unwrap_or_else(no_such_event));
    });
}

/// Answers an event by a handler, as the event's row in the table says.
fn on<E: ClientEvent, A, W>(
    gateway: &Arc<Gateway>,
    socket: &SocketRef,
    handler: impl Fn(Call<E::Request>) -> W + Clone + Send + Sync + 'static,
) where
    A: Answer<E>,
    W: Future<Output = Result<A, Refusal>> + Send + 'static,
{
    let gateway = gateway.clone();
    socket.on(E::NAME, async move |socket: SocketRef, ack: Ack, TryData(payload): TryData<E::Request>| {
        let asked = ack.passes(&gateway.metrics, E::ACK).and_then(|()| Ok((identify(&socket)?, E::request(payload)?)));
        let answer = match asked {
            Ok((user, request)) => {
                let weight = E::weight(&request);
                let call = Call { gateway: gateway.clone(), socket, user: user.clone(), request };
                gateway.serve::<E, _>(&user, weight, handler(call)).await
            }
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(answer) => {
                if answer.give(|answer| ack.answer(&gateway.metrics, answer)) {
                    answer.given();
                }
            }
            Err(refusal) => ack.refuse(&gateway.metrics, &refusal),
        }
    });
}

/// The session beneath a socket.
fn session_of(socket: &Socket<LocalAdapter>) -> Option<&Arc<Session>> {
    socket.req_parts().extensions.get()
}

/// Whose socket it is, if their token is still valid.
fn identify(socket: &SocketRef) -> Result<UserId, Refusal> {
    let no_identity = || Refusal::new(Code::Unauthenticated, "no valid token");
    let identity = socket.extensions.get::<Identity>().ok_or_else(no_identity)?;
    identity.still_valid().cloned()
}
