"""Several bundles in one table: engines and weight formats side by side, beside what each could do at best."""
