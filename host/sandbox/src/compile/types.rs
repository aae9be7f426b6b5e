//! How many declarations a type of a component has: the types of instances and components hold others.

use wasmparser::{
    ComponentDefinedType, ComponentType, ComponentTypeDeclaration, CoreType, InstanceTypeDeclaration,
    ModuleTypeDeclaration, RecGroup,
};

pub(crate) fn of_component_type(ty: &ComponentType<'_>) -> u64 {
    let inner: u64 = match ty {
        ComponentType::Defined(defined) => match defined {
            ComponentDefinedType::Record(fields) => fields.len() as u64,
            ComponentDefinedType::Variant(cases) => cases.len() as u64,
            ComponentDefinedType::Tuple(types) => types.len() as u64,
            ComponentDefinedType::Flags(names) | ComponentDefinedType::Enum(names) => names.len() as u64,
            _ => 0,
        },
        ComponentType::Func(function) => function.params.len() as u64,
        ComponentType::Component(declarations) => declarations
            .iter()
            .map(|declaration| match declaration {
                ComponentTypeDeclaration::CoreType(ty) => of_core_type(ty),
                ComponentTypeDeclaration::Type(ty) => of_component_type(ty),
                _ => 1,
            })
            .sum(),
        ComponentType::Instance(declarations) => declarations
            .iter()
            .map(|declaration| match declaration {
                InstanceTypeDeclaration::CoreType(ty) => of_core_type(ty),
                InstanceTypeDeclaration::Type(ty) => of_component_type(ty),
                _ => 1,
            })
            .sum(),
        ComponentType::Resource { .. } => 0,
    };
    1 + inner
}

pub(crate) fn of_core_type(ty: &CoreType<'_>) -> u64 {
    match ty {
        CoreType::Rec(group) => of_group(group),
        CoreType::Module(declarations) => {
            let of = |declaration: &ModuleTypeDeclaration<'_>| match declaration {
                ModuleTypeDeclaration::Type(group) => of_group(group),
                _ => 1,
            };
            1 + declarations.iter().map(of).sum::<u64>()
        }
    }
}

pub(crate) fn of_group(group: &RecGroup) -> u64 {
    group
        .types()
        .map(|ty| match &ty.composite_type.inner {
            wasmparser::CompositeInnerType::Func(function) => {
                1 + (function.params().len() + function.results().len()) as u64 / 8
            }
            _ => 1,
        })
        .sum()
}
