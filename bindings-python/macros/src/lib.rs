//! The attribute that lets each argument of a Python method know its name.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::{FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, Pat, Type, parse_macro_input, parse_quote};

/// Goes above `#[pymethods]`: every argument is taken by `crate::argument::taken`, which knows what it is called.
///
/// pyo3 converts an argument without saying which one it is, so a number that does not fit could not say whose it was.
/// Special methods (`__eq__` and the like) are left alone: their operands have no names.
#[proc_macro_attribute]
pub fn named(_attribute: TokenStream, item: TokenStream) -> TokenStream {
    let mut block = parse_macro_input!(item as ItemImpl);
    let Some(first) = block.items.iter().find_map(method_name) else { return quote!(#block).into() };
    let class = match &*block.self_ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.clone()),
        Type::Group(group) => match &*group.elem {
            Type::Path(path) => path.path.segments.last().map(|last| last.ident.clone()),
            _ => None,
        },
        _ => None,
    };
    let names_of = match class {
        Some(class) => format_ident!("__arguments_{class}_{first}"),
        None => format_ident!("__arguments_{first}"),
    };
    let mut names: Vec<Ident> = Vec::new();
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            name_arguments(method, &names_of, &mut names);
        }
    }
    quote! {
        #[allow(non_camel_case_types, unreachable_pub, missing_docs, reason = "one type for the name of each argument")]
        mod #names_of {
            #(
                pub struct #names;
                impl crate::argument::Name for #names {
                    const NAME: &'static str = stringify!(#names);
                }
            )*
        }
        #block
    }
    .into()
}

fn method_name(item: &ImplItem) -> Option<&Ident> {
    match item {
        ImplItem::Fn(method) => Some(&method.sig.ident),
        _ => None,
    }
}

/// Marks the arguments of one method, and adds their names to those that are known.
fn name_arguments(method: &mut ImplItemFn, names_of: &Ident, names: &mut Vec<Ident>) {
    let marked = |name: &str| method.attrs.iter().any(|attribute| attribute.path().is_ident(name));
    if method.sig.ident.to_string().starts_with("__") {
        return;
    }
    // What has no `self` has its object or class in the first place, unless it is a constructor or static.
    let mut receiver = !(marked("new") || marked("staticmethod") || method.sig.receiver().is_some());
    for input in &mut method.sig.inputs {
        let FnArg::Typed(argument) = input else { continue };
        let Pat::Ident(pattern) = &*argument.pat else { continue };
        if is_token(&argument.ty) {
            continue;
        }
        if std::mem::take(&mut receiver) {
            continue;
        }
        let name = pattern.ident.clone();
        argument.attrs.push(parse_quote!(#[pyo3(from_py_with = crate::argument::taken::<#names_of::#name, _>)]));
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// Whether it is the token of the interpreter, `Python<'_>`.
fn is_token(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Python"))
}
