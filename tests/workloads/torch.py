"""A small network that learns on the processor, with two threads; the weights are written in the end."""
import hashlib

import torch

torch.manual_seed(1)
torch.set_num_threads(2)
torch.use_deterministic_algorithms(True)
network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.Tanh(), torch.nn.Linear(128, 1))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
data = torch.randn(2048, 64)
target = (data[:, :8].prod(dim=1, keepdim=True) + data.sum(dim=1, keepdim=True)).tanh()
for epoch in range(40):
    for part in torch.randperm(2048).split(64):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(data[part]), target[part])
        loss.backward()
        optimizer.step()
    print("epoch", epoch, f"{loss.item():.9f}", flush=True)
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters())).hexdigest()
with open("weights", "w") as file:
    print(digest, file=file)
