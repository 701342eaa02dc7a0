//! Typed parameters of paths: each is an extractor that checks what it takes, and describes itself.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use holdfast_message::{ChatId, MessageId, UserId};
use utoipa::IntoParams;

use super::extract::Path;
use crate::gateway::Gateway;
use crate::refusal::{Code, Problem, Refusal};

/// `{chatId}` of a group.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct GroupPath {
    /// The group's id
    #[param(rename = "chatId", value_type = String, pattern = "^g_[0-9a-f-]{36}$")]
    pub(super) chat: ChatId,
}

/// `{chatId}` of a group and `{userId}` of a member, or of one to be.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct MemberPath {
    /// The group's id
    #[param(rename = "chatId", value_type = String, pattern = "^g_[0-9a-f-]{36}$")]
    pub(super) chat: ChatId,
    /// The member
    #[param(rename = "userId", value_type = String, pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub(super) member: UserId,
}

/// `{userId}`.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct UserPath {
    /// The user
    #[param(rename = "userId", value_type = String, pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub(super) user: UserId,
}

/// `{messageId}`.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct MessagePath {
    /// The message
    #[param(rename = "messageId", value_type = String, format = "uuid")]
    pub(super) id: MessageId,
}

impl FromRequestParts<Arc<Gateway>> for GroupPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let Path(chat) = Path::<String>::from_request_parts(parts, gateway).await?;
        Ok(Self { chat: parse_group(&chat)? })
    }
}

impl FromRequestParts<Arc<Gateway>> for MemberPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let Path((chat, member)) = Path::<(String, String)>::from_request_parts(parts, gateway).await?;
        Ok(Self { member: parse_user("userId", &member)?, chat: parse_group(&chat)? })
    }
}

impl FromRequestParts<Arc<Gateway>> for UserPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let Path(user) = Path::<String>::from_request_parts(parts, gateway).await?;
        Ok(Self { user: parse_user("userId", &user)? })
    }
}

impl FromRequestParts<Arc<Gateway>> for MessagePath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, gateway).await?;
        let id = MessageId::parse(&id).ok_or_else(|| Refusal::new(Code::Validation, "messageId: a UUID"))?;
        Ok(Self { id })
    }
}

/// A group's id.
pub(super) fn parse_group(text: &str) -> Result<ChatId, Refusal> {
    let group = ChatId::parse(text).ok().filter(ChatId::is_group);
    group.ok_or_else(|| Refusal::new(Code::Validation, "chatId: a group's id is 'g_' and a UUID"))
}

/// A user's id, in this field.
pub(super) fn parse_user(field: &str, text: &str) -> Result<UserId, Refusal> {
    UserId::parse(text).map_err(|error| Refusal::new(Code::Validation, format!("{field}: {error}")))
}
