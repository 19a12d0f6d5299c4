"""Before the variants: autograd, PyTorch's automatic differentiation, on one number. It prints 8.0."""

import torch

w = torch.tensor(2.0, requires_grad=True)
y = w**2
z = 2 * y + 5  # z = 2w² + 5, so dz/dw = 4w
z.backward()
print(w.grad.item())
