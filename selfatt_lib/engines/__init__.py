"""What trains and predicts in large: one engine a library of tensors."""
