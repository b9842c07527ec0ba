//! The endpoints under `/auth`.

use super::Keys;
use crate::http::reply::{Error, Reply};
use crate::http::routes::Call;

pub fn create(_keys: &Keys, _call: &Call<'_>) -> Result<Reply, Error> {
    Err(Error::Internal("not there yet".to_owned()))
}

pub fn list(_keys: &Keys, _call: &Call<'_>) -> Result<Reply, Error> {
    Err(Error::Internal("not there yet".to_owned()))
}

pub fn revoke(_keys: &Keys, _call: &Call<'_>) -> Result<Reply, Error> {
    Err(Error::Internal("not there yet".to_owned()))
}
