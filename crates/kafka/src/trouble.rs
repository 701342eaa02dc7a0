//! What librdkafka complains of and goes on trying after, by what an operator would do about it. A bounded set, as labels have to be.

use rdkafka::error::RDKafkaErrorCode;

/// A kind of error that does not end a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// We may not read, write or see the topic.
    TopicAuthorization,
    /// We may not be a member of the group.
    GroupAuthorization,
    /// The brokers do not take our credentials.
    Authentication,
    /// The topic, or a partition of it, is not there.
    UnknownTopic,
    /// A broker can't be reached, or does not answer.
    Unreachable,
    /// Anything else; the log has it.
    Other,
}

impl Trouble {
    /// All of them.
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

    /// A metric's label.
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

    /// Trying again does not help: somebody has to change rights or credentials.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::TopicAuthorization | Self::GroupAuthorization | Self::Authentication)
    }
}
