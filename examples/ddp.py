"""Two processes, or more: `torchrun --nproc-per-node 2 examples/ddp.py`."""

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import svdistill
from digits import BATCH, WEIGHT, accuracy, new_distiller, scans

dist.init_process_group("gloo")  # between GPUs "nccl"
train, test = scans()
distiller = new_distiller(train)
model = DistributedDataParallel(distiller)  # gives all processes the same weights; the gradients are averaged below
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
sampler = DistributedSampler(train)
for epoch in range(4):
    sampler.set_epoch(epoch)
    for images, labels in DataLoader(train, batch_size=BATCH // dist.get_world_size(), sampler=sampler):
        output = model(images)
        main = cross_entropy(output.logits, labels)
        # Averages both gradients over the processes, then combines them: as one process would on the joined batch.
        svdistill.backward(main, WEIGHT * output.transfer, optimizer)
        optimizer.step()
        optimizer.zero_grad()
    if dist.get_rank() == 0:
        print(f"epoch {epoch}: main {main.detach():.3f}, transfer {output.transfer.detach():.4f}")

weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
everybody = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
dist.all_gather(everybody, weights)
if dist.get_rank() == 0:
    print(f"processes agree: {all(torch.equal(weights, other) for other in everybody)}")
    print(f"accuracy {accuracy(distiller.student, test):.1f} %")
dist.destroy_process_group()
