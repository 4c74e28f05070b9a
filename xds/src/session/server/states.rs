//! The states of all types on one stream.

use std::{
    ops::{Index, IndexMut},
    sync::LazyLock,
};

use super::types::TypeState;
use crate::resource::ResourceType;

/// By type. Most clients ask for four of them, and there are thousands of clients: a type takes memory once it is
/// changed.
#[derive(Debug, Default)]
pub(super) struct TypeStates([Option<Box<TypeState>>; ResourceType::ALL.len()]);

/// Of a type that the client did not ask for.
static UNASKED: LazyLock<TypeState> = LazyLock::new(TypeState::default);

impl TypeStates {
    /// The state of a type that the client asked for; `None` of another.
    pub(super) fn asked(&mut self, type_: ResourceType) -> Option<&mut TypeState> {
        self.0[type_.index()].as_deref_mut().filter(|state| state.subscription.is_some())
    }

    /// Those that are there, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &TypeState> {
        self.0.iter().filter_map(Option::as_deref)
    }
}

impl Index<ResourceType> for TypeStates {
    type Output = TypeState;

    fn index(&self, type_: ResourceType) -> &TypeState {
        self.0[type_.index()].as_deref().unwrap_or(&UNASKED)
    }
}

impl IndexMut<ResourceType> for TypeStates {
    fn index_mut(&mut self, type_: ResourceType) -> &mut TypeState {
        self.0[type_.index()].get_or_insert_default()
    }
}
