//! Errors of the rooms below as answers of the API.

use axum::http::StatusCode;

use manager::ManagerError;
use manager::remote::RemoteError;

use super::error::ApiError;
use crate::cluster::ClusterError;
use crate::engine::EngineError;
use crate::engine::places::PlaceError;

impl From<storage::Error> for ApiError {
    fn from(error: storage::Error) -> Self {
        let status = match error.kind() {
            storage::Kind::NotFound => StatusCode::NOT_FOUND,
            storage::Kind::Conflict => StatusCode::CONFLICT,
            storage::Kind::Invalid => StatusCode::BAD_REQUEST,
            storage::Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            storage::Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::from_chain(status, &error)
    }
}

impl From<storage::ReferenceError> for ApiError {
    fn from(error: storage::ReferenceError) -> Self {
        Self::from_chain(StatusCode::BAD_REQUEST, &error)
    }
}

impl From<builder::BuildError> for ApiError {
    fn from(error: builder::BuildError) -> Self {
        let user = error.is_user_error();
        let status = if user {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::from_chain(status, &error)
    }
}

impl From<netd::Error> for ApiError {
    fn from(error: netd::Error) -> Self {
        let status = match error.kind() {
            netd::ErrorKind::NotFound => StatusCode::NOT_FOUND,
            netd::ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            netd::ErrorKind::Conflict => StatusCode::CONFLICT,
            netd::ErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
            netd::ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::from_chain(status, &error)
    }
}

impl From<manager::ControlError> for ApiError {
    fn from(error: manager::ControlError) -> Self {
        use manager::control::ErrorKind;
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid | ErrorKind::Precondition => StatusCode::BAD_REQUEST,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::from_chain(status, &error)
    }
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        let status = match &error {
            ClusterError::AlreadyMember | ClusterError::NotMember | ClusterError::Locked => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ClusterError::NotLocked => StatusCode::CONFLICT,
            ClusterError::UnlockKey => StatusCode::UNAUTHORIZED,
            ClusterError::Manager(
                ManagerError::Exists
                | ManagerError::Missing
                | ManagerError::Leaving(_)
                | ManagerError::NoLeader
                | ManagerError::NotTaken(_),
            ) => StatusCode::SERVICE_UNAVAILABLE,
            ClusterError::Manager(ManagerError::Remote(error)) => of_remote(error),
            ClusterError::Manager(ManagerError::Invalid(_)) => StatusCode::BAD_REQUEST,
            ClusterError::Advertised(_) => StatusCode::BAD_REQUEST,
            ClusterError::Remote(error) => of_remote(error),
            ClusterError::Listen(_) => StatusCode::SERVICE_UNAVAILABLE,
            ClusterError::Named(_) => StatusCode::INTERNAL_SERVER_ERROR,
            #[allow(unreachable_patterns)] // the manager's other failures are its files'
            ClusterError::Manager(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::from_chain(status, &error)
    }
}

fn of_remote(error: &RemoteError) -> StatusCode {
    match error {
        RemoteError::Exists | RemoteError::Missing | RemoteError::Unreachable(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        RemoteError::Token(_) | RemoteError::Address(_) | RemoteError::NoAddress => StatusCode::BAD_REQUEST,
        RemoteError::Fingerprint(_) | RemoteError::Refused(_) => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Docker answers 500 whatever its managers say; a client can do more with the kind of the refusal.
fn no_place(error: &PlaceError) -> StatusCode {
    match error {
        PlaceError::Refused { code, .. } => match code {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
            tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
            tonic::Code::FailedPrecondition => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
        PlaceError::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
        PlaceError::Answer(_) | PlaceError::Network(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::NoSuchContainer(_)
            | EngineError::NoSuchExec(_)
            | EngineError::NoSuchImage(_)
            | EngineError::NoSuchNetwork(_) => StatusCode::NOT_FOUND,
            EngineError::AmbiguousPrefix(_) | EngineError::Invalid(_) | EngineError::StartFailed { .. } => {
                StatusCode::BAD_REQUEST
            }
            EngineError::Place { source, .. } => no_place(source),
            EngineError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            EngineError::Conflict(_) => StatusCode::CONFLICT,
            EngineError::Unchanged(_) => return Self::not_modified(),
            EngineError::File { .. }
            | EngineError::Record { .. }
            | EngineError::Storage { .. }
            | EngineError::Network { .. }
            | EngineError::Shim { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::from_chain(status, &error)
    }
}
