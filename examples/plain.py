"""Plain PyTorch: `python examples/plain.py`."""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import svdistill
from digits import BATCH, WEIGHT, accuracy, new_distiller, scans

train, test = scans()
distiller = new_distiller(train)
optimizer = torch.optim.SGD(distiller.parameters(), lr=0.02, momentum=0.9)
for epoch in range(6):
    alone = epoch < 2  # in the first third the transfer task learns alone, with a bound of 3
    for images, labels in DataLoader(train, batch_size=BATCH, shuffle=True):
        output = distiller(images)
        main = cross_entropy(output.logits, labels)  # or any other loss of the logits
        svdistill.backward(None if alone else main, WEIGHT * output.transfer, optimizer, bound=3 if alone else 0.3)
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch}: main {main.detach():.3f}, transfer {output.transfer.detach():.4f}")
print(f"accuracy {accuracy(distiller.student, test):.1f} %")
