//! The errors that librdkafka retries after, by what an operator would do about them. A bounded set, as metric labels have to be.

use rdkafka::error::RDKafkaErrorCode;

/// A kind of error that does not end a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The client is not authorized to read, write or describe the topic.
    TopicAuthorization,
    /// The client is not authorized to join the group.
    GroupAuthorization,
    /// The brokers reject the client's credentials.
    Authentication,
    /// The topic, or a partition of it, does not exist.
    UnknownTopic,
    /// A broker can't be reached, or does not answer.
    Unreachable,
    /// Anything else; the log has it.
    Other,
}

impl Trouble {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::TopicAuthorization,
        Self::GroupAuthorization,
        Self::Authentication,
        Self::UnknownTopic,
        Self::Unreachable,
        Self::Other,
    ];

    pub(crate) fn of(code: RDKafkaErrorCode) -> Self {
        use RDKafkaErrorCode as Code;
        match code {
            Code::TopicAuthorizationFailed => Self::TopicAuthorization,
            Code::GroupAuthorizationFailed => Self::GroupAuthorization,
            Code::Authentication | Code::SaslAuthenticationFailed => Self::Authentication,
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => Self::UnknownTopic,
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// The metric label of this kind.
    pub fn code(self) -> &'static str {
        match self {
            Self::TopicAuthorization => "topic_authorization_failed",
            Self::GroupAuthorization => "group_authorization_failed",
            Self::Authentication => "authentication_failed",
            Self::UnknownTopic => "unknown_topic",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }

    /// Whether retrying is useless until an operator changes rights or credentials.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::TopicAuthorization | Self::GroupAuthorization | Self::Authentication)
    }
}
