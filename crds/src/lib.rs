//! The API of binder-operator.
