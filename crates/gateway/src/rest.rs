//! REST: the same path as over sockets, as resources and status codes.
//!
//! A positive answer has the fields of the socket's answer without `ok` ([`crate::wire::responses`]); a refusal is a problem document
//! (RFC 9457) with `code` and `retryable`. Every route is described where it is written, and the whole is served
//! as OpenAPI at `/api-docs/openapi.json`. What is said over sockets is described in [`crate::wire::asyncapi`].
//!
//! # A new route
//!
//! One file a resource, with a function `routes()` that [`router`] merges. A route is an `async fn` under `#[utoipa::path]`, added by
//! `.routes(routes!(it))`, never by `.route(…)`: so it can't exist without its description. It takes what it needs by the extractors
//! of `extract` and `path` (`User` first; `UserPath` and the like, `Query`; `Payload`, the body, last), calls one method of [`Gateway`], and returns
//! `Result<Json<Answer>, Problem>`; a [`Refusal`] becomes a `Problem` by `?` and is counted on its way out. `Answer` derives
//! `Serialize` and `ToSchema`, with `camelCase` and a sentence for each field; so does a body, with its limits. `responses(…)` names the
//! positive ones and, of the refusals, `Problems` and what else applies: `ProblemsOfChat`, `ProblemsOfBody`.

mod extract;
mod groups;
mod idempotency;
mod inbox;
mod messages;
mod path;
mod presence;
mod profiles;
mod relations;

use std::any::Any;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi, Paths};
use utoipa::{Modify, OpenApi as _};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_swagger_ui::{self as swagger, SwaggerUi};

use crate::gateway::Gateway;
use crate::refusal::{Code, Document, Problem, Refusal};
use crate::wire::asyncapi;

/// The largest body and packet, in bytes. Far more than any message needs, so that one that is too long is answered, not cut off.
pub const MAX_BODY: usize = 1_000_000;

type Shared = State<Arc<Gateway>>;
type Routes = OpenApiRouter<Arc<Gateway>>;

/// The routes, and their description.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let (routes, description) = described().split_for_parts();
    routes
        .merge(rendered(description))
        .route("/api-docs/asyncapi.json", get(async || Json(asyncapi::description())))
        .method_not_allowed_fallback(async || {
            let refusal = Refusal::new(Code::Validation, "the resource has no such method");
            Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, refusal)
        })
        .fallback(async || Problem::from(no_such_resource()))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(map_response_with_state(gateway.clone(), count))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(gateway)
}

/// The description of every route.
pub fn description() -> OpenApi {
    described().into_openapi()
}

fn described() -> Routes {
    OpenApiRouter::with_openapi(Description::openapi())
        .merge(messages::routes())
        .merge(inbox::routes())
        .merge(groups::routes())
        .merge(presence::routes())
        .merge(relations::routes())
        .merge(profiles::routes())
}

/// The description, and a page that shows it. Both come from here: no other host is asked.
fn rendered(description: OpenApi) -> SwaggerUi {
    let page = swagger::Config::default().validator_url("none").try_it_out_enabled(true).persist_authorization(true);
    SwaggerUi::new("/api-docs").url("/api-docs/openapi.json", description).config(page)
}

fn no_such_resource() -> Refusal {
    Refusal::new(Code::NotFound, "no such resource")
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = said.unwrap_or("without a message"), "a request ended in a panic");
    Problem::from(Refusal::new(Code::Internal, "a fault of the server")).into_response()
}

/// Counts a refusal. The page that shows the description says nothing of what it has not: that becomes one, too.
async fn count(State(gateway): Shared, mut response: Response) -> Response {
    if response.status() == StatusCode::NOT_FOUND && response.extensions().get::<Code>().is_none() {
        response = Problem::from(no_such_resource()).into_response();
    }
    if let Some(code) = response.extensions().get::<Code>() {
        gateway.metrics.refused(*code);
    }
    response
}

/// What the description says besides the routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Holdfast", description = "A chat backend that does not lose messages."),
    components(schemas(Document<'static>)),
    security(("bearer" = [])),
    modifiers(&Bearer),
    tags(
        (name = "messages", description = "Sending, and history"),
        (name = "conversations", description = "Your chats, and what is unread"),
        (name = "groups", description = "Chats of more than two"),
        (name = "presence", description = "Who is online"),
        (name = "friends", description = "Who may write to whom"),
        (name = "profiles", description = "What users say of themselves"),
    )
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, description: &mut OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = description.components.get_or_insert_with(Components::default);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// The same route under another name.
fn also_at<S>(path: &str, (schemas, paths, handlers): UtoipaMethodRouter<S>) -> UtoipaMethodRouter<S> {
    let mut renamed = Paths::new();
    for (_, mut item) in paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            let suffix = path.replace(['/', '{', '}'], "_");
            operation.operation_id = operation.operation_id.take().map(|id| format!("{id}{suffix}"));
        }
        renamed.paths.insert(path.to_owned(), item);
    }
    (schemas, renamed, handlers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_how_it_refuses() {
        let routes = described();
        let mut names = std::collections::HashSet::new();
        for (path, item) in &routes.get_openapi().paths.paths {
            for operation in [&item.get, &item.post, &item.put, &item.delete, &item.patch].into_iter().flatten() {
                let name = operation.operation_id.clone().unwrap();
                assert!(names.insert(name.clone()), "{path}: {name} is taken");
                assert!(operation.summary.is_some() && operation.tags.is_some(), "{name}");
                for status in ["400", "401", "500", "503"] {
                    assert!(operation.responses.responses.contains_key(status), "{name}: {status}");
                }
            }
        }
    }
}
