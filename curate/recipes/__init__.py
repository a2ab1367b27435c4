"""Recipes: validated YAML that says which filters score and which steps decide. Data, never code."""

from curate.recipes.loading import load_recipe
from curate.recipes.schema import (
    Amount,
    BestOf,
    Decontaminate,
    Deduplicate,
    Drop,
    Keep,
    Mix,
    Order,
    Recipe,
    Sample,
    Step,
    shipped_recipes,
)

__all__ = [
    "Amount",
    "BestOf",
    "Decontaminate",
    "Deduplicate",
    "Drop",
    "Keep",
    "Mix",
    "Order",
    "Recipe",
    "Sample",
    "Step",
    "load_recipe",
    "shipped_recipes",
]
