"""Who acts and how they learn: policies, engines and GRPO."""
