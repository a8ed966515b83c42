//! Buffers that go back by themselves. A loan may be dropped on another thread, and in a panic: it
//! goes to the shelf of the thread that drops it.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::global_pool;

/// A string that goes back to the pool when it is dropped.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StringLoan(String);

impl StringLoan {
    /// Keeps the string: it does not go back.
    pub fn into_string(mut self) -> String {
        mem::take(&mut self.0)
    }
}

impl Drop for StringLoan {
    #[inline]
    fn drop(&mut self) {
        global_pool().return_string(mem::take(&mut self.0));
    }
}

impl Deref for StringLoan {
    type Target = String;

    fn deref(&self) -> &String {
        &self.0
    }
}

impl DerefMut for StringLoan {
    fn deref_mut(&mut self) -> &mut String {
        &mut self.0
    }
}

impl Clone for StringLoan {
    fn clone(&self) -> Self {
        Self::from(self.as_str())
    }
}

impl From<&str> for StringLoan {
    fn from(text: &str) -> Self {
        let mut loan = global_pool().loan_string();
        loan.push_str(text);
        loan
    }
}

/// The string goes to the pool when the loan is dropped.
impl From<String> for StringLoan {
    #[inline]
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<StringLoan> for String {
    fn from(loan: StringLoan) -> Self {
        loan.into_string()
    }
}

impl AsRef<str> for StringLoan {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for StringLoan {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for StringLoan {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl PartialEq<String> for StringLoan {
    fn eq(&self, other: &String) -> bool {
        self.0 == *other
    }
}

impl fmt::Debug for StringLoan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for StringLoan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for StringLoan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StringLoan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A byte buffer that goes back to the pool when it is dropped.
#[derive(Default, PartialEq, Eq)]
pub struct BytesLoan(Vec<u8>);

impl BytesLoan {
    /// Keeps the buffer: it does not go back.
    pub fn into_bytes(mut self) -> Vec<u8> {
        mem::take(&mut self.0)
    }
}

impl Drop for BytesLoan {
    #[inline]
    fn drop(&mut self) {
        global_pool().return_bytes(mem::take(&mut self.0));
    }
}

impl Deref for BytesLoan {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for BytesLoan {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Clone for BytesLoan {
    fn clone(&self) -> Self {
        let mut loan = global_pool().loan_bytes();
        loan.extend_from_slice(&self.0);
        loan
    }
}

/// The buffer goes to the pool when the loan is dropped.
impl From<Vec<u8>> for BytesLoan {
    #[inline]
    fn from(buffer: Vec<u8>) -> Self {
        Self(buffer)
    }
}

impl AsRef<[u8]> for BytesLoan {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for BytesLoan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
