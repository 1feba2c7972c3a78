//! The only type that knows status codes. Every error a client sees is `application/problem+json` with a stable code; what
//! caused it is logged here, once, and shown to nobody.

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::analytics::AnalyticsError;
use crate::directory::DirectoryError;
use crate::directory::plausible::PlausibleError;
use crate::domain::access::Role;
use crate::domain::invalid::Invalid;
use crate::store::StoreError;

/// What a client is told when something does not work (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Identifies the kind of problem: `urn:pulsehook:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    status: u16,
    /// What is wrong and what to do about it.
    detail: String,
    /// Stable name of the problem.
    code: String,
    /// For invalid fields: what is wrong with each.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::HashMap<String, Vec<String>>>)]
    errors: Option<Invalid>,
}

#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Option<Invalid>,
    retry_after_secs: Option<u64>,
    /// What is left of the body is not read, so the connection ends: whoever keeps it for his next request would lose that.
    ends_connection: bool,
    /// Not for clients.
    cause: Option<anyhow::Error>,
}

pub type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, code, detail, errors: None, retry_after_secs: None, ends_connection: false, cause: None }
    }

    /// The body is not what it should be at all.
    pub fn unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable_body", detail)
    }

    /// The body did not come to its end.
    pub fn broken_off(detail: impl Into<String>) -> Self {
        Self { ends_connection: true, ..Self::unreadable(detail) }
    }

    /// The same of what stands in the request's address.
    pub fn unreadable_address() -> Self {
        let detail = "The path or the query cannot be read: a parameter is given twice, or is no text.";
        Self::new(StatusCode::BAD_REQUEST, "unreadable_address", detail)
    }

    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Send an API key as \"Authorization: Bearer phk_…\", or sign in.",
        )
    }

    pub fn wrong_password() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "wrong_password", "E-mail address or password is wrong.")
    }

    pub fn role_too_low(needed: Role) -> Self {
        Self::new(StatusCode::FORBIDDEN, "role_too_low", format!("This needs the role {needed} or a higher one."))
    }

    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// Unknown, or somebody else's: nobody can tell which.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here, or it is not yours.")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This address does not know that method.")
    }

    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub fn too_large(limit: usize) -> Self {
        let detail = format!("The body may have at most {limit} bytes.");
        Self { ends_connection: true, ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail) }
    }

    pub fn limit_reached(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "limit_reached", detail)
    }

    pub fn invalid(errors: Invalid) -> Self {
        let detail = format!("Some fields are not valid: {errors}.");
        Self { errors: Some(errors), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields", detail) }
    }

    pub fn too_many(secs: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many tries; wait a little.");
        Self { retry_after_secs: Some(secs), ..error }
    }

    /// Nothing is wrong but that there are too many.
    pub fn busy() -> Self {
        let error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "This server has as many connections as it can hold; try again shortly.",
        );
        Self { retry_after_secs: Some(1), ..error }
    }

    pub fn unavailable(cause: impl Into<anyhow::Error>) -> Self {
        let error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "The database does not answer; try again shortly.",
        );
        Self { retry_after_secs: Some(1), cause: Some(cause.into()), ..error }
    }

    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        let error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "Something went wrong on our side. Tell us the x-request-id of this answer.",
        );
        Self { cause: Some(cause.into()), ..error }
    }

    /// Somebody has told of its cause.
    pub fn told(self) -> Self {
        Self { cause: None, ..self }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn is_server_error(&self) -> bool {
        self.status.is_server_error()
    }
}

impl From<Invalid> for ApiError {
    fn from(errors: Invalid) -> Self {
        Self::invalid(errors)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::conflict("conflict", "Something like this exists already."),
            StoreError::Dangling => Self::not_found(),
            StoreError::LeaseLost | StoreError::Overtaken | StoreError::Unavailable(_) => Self::unavailable(error),
            StoreError::Other(_) | StoreError::Refused(_) => Self::internal(error),
        }
    }
}

impl From<DirectoryError> for ApiError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Store(error) => error.into(),
            DirectoryError::Plausible(error @ PlausibleError::Away(_)) => {
                let detail = "Plausible's database, which knows this credential or does not, does not answer; try again shortly.";
                Self { detail: detail.to_owned(), ..Self::unavailable(error) }
            }
            DirectoryError::Plausible(error @ PlausibleError::Unusable(_)) => {
                let detail = "What this takes cannot be read in Plausible's database; the log of this server says why.";
                Self { detail: detail.to_owned(), ..Self::unavailable(error) }
            }
            DirectoryError::Broken(error) => Self::internal(error),
            DirectoryError::Refused { code, sentence } => Self::forbidden(code, sentence),
        }
    }
}

impl From<AnalyticsError> for ApiError {
    fn from(error: AnalyticsError) -> Self {
        Self::unavailable(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            error!(code = self.code, "Answered {}: {cause:#}", self.status);
        }
        let problem = Problem {
            kind: format!("urn:pulsehook:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or_default().to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            errors: self.errors,
        };
        let body = serde_json::to_vec(&problem).expect("a problem is plain data");
        let mut response = (self.status, body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(secs) = self.retry_after_secs {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        if self.ends_connection {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
