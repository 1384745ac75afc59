"""Language models: the Hugging Face adapter, tables that are exact, and what both keep."""
